import json
import logging
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from piip.training import checkpoint, saving
from piip.training.manifest import CheckpointError, Manifest

CATEGORIES = [{"id": 7, "name": "dog"}]


def write(root: Path, step: int, *, size: int = 4) -> None:
    """One checkpoint of one rank, whose tensors hold its step."""
    saving.save(
        root, Manifest(step, "key", 1, "ddp", CATEGORIES, {"time/train_seconds": step / 3}),
        model={"weight": torch.full((size,), float(step))}, state={"weight:exp_avg": torch.full((size,), step / 10)},
        rank=0, barrier=lambda: None,
    )  # fmt: skip


def flip_a_bit(path: Path, at: int = -3) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_what_is_saved_comes_back(tmp_path):
    write(tmp_path, 3)

    found = checkpoint.last(tmp_path)

    assert found is not None
    assert found.manifest.step == 3
    assert found.manifest.categories == CATEGORIES
    assert found.manifest.spent == {"time/train_seconds": 1.0}
    assert found.model()["weight"].tolist() == [3.0] * 4
    torch.testing.assert_close(found.state(0)["weight:exp_avg"], torch.full((4,), 0.3))


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path):
    write(tmp_path, 1)
    assert names(tmp_path / "step_00000001") == ["manifest.json", "model.safetensors", "state_rank0.safetensors"]


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert checkpoint.last(tmp_path) is None
    assert checkpoint.last(tmp_path / "never made") is None
    assert checkpoint.best(tmp_path) is None


def test_the_newest_counts(tmp_path):
    for step in (9, 10, 100):
        write(tmp_path, step)
    assert checkpoint.last(tmp_path).manifest.step == 100


# Every call with which a save changes the disk: mkdir; two times save_file and fsync; fsync and replace of the manifest; fsync of
# the folder; rename, which is the commit; fsync of the folder above
@pytest.mark.parametrize("writes", range(10))
def test_a_crash_at_any_write_leaves_the_earlier_checkpoint(writes, tmp_path):
    write(tmp_path, 1)

    def die_after_some_writes():
        for place, name in [
            (Path, "mkdir"),
            (saving, "save_file"),
            (os, "fsync"),
            (Path, "replace"),
            (Path, "rename"),
        ]:
            setattr(place, name, counted(getattr(place, name)))
        write(tmp_path, 2)

    left = iter(range(writes))

    def counted(real):
        def wrapped(*args, **kwargs):
            if next(left, None) is None:
                os._exit(9)
            return real(*args, **kwargs)

        return wrapped

    assert in_a_fork(die_after_some_writes) == 9
    assert checkpoint.last(tmp_path).manifest.step == (2 if writes == 9 else 1)
    write(tmp_path, 2)  # and the next attempt is not in the way of the dead one's leftovers
    assert names(tmp_path) == ["step_00000001", "step_00000002"]
    assert checkpoint.last(tmp_path).manifest.step == 2


def in_a_fork(work) -> int:
    """Exit code of a process that does `work`; 7 where it raises OSError."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except OSError:
            os._exit(7)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("name", ["model.safetensors", "state_rank0.safetensors", "manifest.json"])
def test_a_flipped_bit_is_named_and_walked_back_from(name, tmp_path, caplog):
    write(tmp_path, 1)
    write(tmp_path, 2)
    flip_a_bit(tmp_path / "step_00000002" / name)

    with caplog.at_level(logging.WARNING):
        found = checkpoint.last(tmp_path)

    assert found.manifest.step == 1
    assert f"step_00000002/{name}" in caplog.text
    assert "damaged" in caplog.text
    assert f"using {tmp_path / 'step_00000001'}" in caplog.text


def test_a_manifest_with_another_step_in_it_is_damaged(tmp_path):
    write(tmp_path, 1)
    manifest = tmp_path / "step_00000001" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"step": 1', '"step": 3'))  # one bit, and valid JSON

    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged: its digest"):
        checkpoint.verify(manifest.parent)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"step": 1}', '{"digest": 1}'])
def test_a_manifest_that_is_none_is_damaged(text, tmp_path):
    write(tmp_path, 1)
    (tmp_path / "step_00000001" / "manifest.json").write_text(text)

    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        checkpoint.verify(tmp_path / "step_00000001")


def test_missing_and_truncated_files_are_named(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2)
    (tmp_path / "step_00000001" / "model.safetensors").unlink()
    os.truncate(tmp_path / "step_00000002" / "model.safetensors", 20)

    with pytest.raises(CheckpointError, match=r"step_00000001/model\.safetensors is missing"):
        checkpoint.verify(tmp_path / "step_00000001")
    with pytest.raises(CheckpointError, match=r"has 20 bytes, its manifest says \d+"):
        checkpoint.verify(tmp_path / "step_00000002")


def test_where_all_are_damaged_training_does_not_start_over_silently(tmp_path):
    for step in (1, 2):
        write(tmp_path, step)
        flip_a_bit(tmp_path / f"step_0000000{step}" / "model.safetensors")

    with pytest.raises(CheckpointError, match=r"no good checkpoint left .*step_00000002.*step_00000001.*--fresh"):
        checkpoint.last(tmp_path)


def test_a_damaged_checkpoint_is_replaced_when_training_reaches_its_step_again(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2)
    flip_a_bit(tmp_path / "step_00000002" / "model.safetensors")

    write(tmp_path, 2)

    assert checkpoint.last(tmp_path).manifest.step == 2


def test_the_best_survives_pruning(tmp_path):
    for step in range(1, 6):
        write(tmp_path, step)
        if step == 2:
            saving.mark_best(tmp_path, step, 0.5)
        saving.prune(tmp_path, keep=2)

    assert names(tmp_path) == ["best.json", "step_00000002", "step_00000004", "step_00000005"]
    assert checkpoint.best(tmp_path).manifest.step == 2
    assert checkpoint.best_mark(tmp_path) == (2, 0.5)


def test_the_best_before_is_deleted_once_another_is_best(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
        saving.mark_best(tmp_path, step, step / 10)
    saving.prune(tmp_path, keep=1)

    assert names(tmp_path) == ["best.json", "step_00000003"]


def test_a_damaged_best_is_refused(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2)
    saving.mark_best(tmp_path, 1, 0.5)
    flip_a_bit(tmp_path / "step_00000001" / "model.safetensors")

    with pytest.raises(CheckpointError, match=r"step_00000001/model\.safetensors is damaged"):
        checkpoint.best(tmp_path)


def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_half_written(tmp_path):
    write(tmp_path, 1)

    def save_400_kb_where_64_fit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        write(tmp_path, 2, size=100_000)

    assert in_a_fork(save_400_kb_where_64_fit) == 7
    assert names(tmp_path) == ["step_00000001"]
    assert checkpoint.last(tmp_path).manifest.step == 1


def test_a_disk_that_fills_up_at_the_manifest_leaves_nothing_either(tmp_path, monkeypatch):
    write(tmp_path, 1)
    monkeypatch.setattr(saving, "write_atomic", raises(OSError(28, "No space left on device")))

    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, 2)

    assert names(tmp_path) == ["step_00000001"]


def raises(error):
    def function(*_args, **_kwargs):
        raise error

    return function


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    write(tmp_path, 1)
    model = nn.Module()
    model.register_parameter("weight", nn.Parameter(torch.zeros(5)))
    model.register_parameter("bias", nn.Parameter(torch.zeros(1)))

    with pytest.raises(
        CheckpointError, match=r"1 missing \['bias'\], 0 unexpected \[\], 1 of another shape \['weight'\]"
    ):
        checkpoint.load_model(model, checkpoint.last(tmp_path))
    with pytest.raises(CheckpointError, match=r"0 missing \[\], 1 unexpected \['weight'\], 0 of another shape"):
        checkpoint.load_model(nn.Module(), checkpoint.last(tmp_path))


def test_a_copied_checkpoint_is_whole(tmp_path):
    write(tmp_path / "here", 1)

    shutil.copytree(tmp_path / "here", tmp_path / "there")

    assert checkpoint.last(tmp_path / "there").manifest.step == 1
    assert json.loads((tmp_path / "there" / "step_00000001" / "manifest.json").read_text())["world_size"] == 1
