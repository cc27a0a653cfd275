"""What tells the weights of one trial from those of another."""

import os

import pytest

from piip.training import start
from piip.training.start import digest_of
from piip.weights.read import WeightsError


@pytest.fixture
def deepspeed(tmp_path):
    """A folder as DeepSpeed names it; what is in the files is of no matter here."""
    folder = tmp_path / "global_step10"
    folder.mkdir()
    for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_folder_of_the_same_names_and_sizes_with_other_bytes_is_another(deepspeed):
    digest = digest_of(str(deepspeed))
    shard = deepspeed / "zero_pp_rank_0_mp_rank_00_optim_states.pt"

    shard.write_bytes(shard.read_bytes()[::-1])
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))  # a file system's clock may tick in milliseconds

    assert digest_of(str(deepspeed)) != digest


def test_a_copy_elsewhere_is_the_same(deepspeed, tmp_path):
    digest = digest_of(str(deepspeed))

    os.rename(deepspeed, tmp_path / "elsewhere")

    assert digest_of(str(tmp_path / "elsewhere")) == digest


def test_a_large_file_is_read_once_for_many_rows(deepspeed, monkeypatch):
    digest = digest_of(str(deepspeed))
    monkeypatch.setattr(start.hashlib, "file_digest", lambda *_: pytest.fail("read again"))

    assert digest_of(str(deepspeed)) == digest


def test_of_our_checkpoints_the_manifests_are_read(tmp_path):
    folder = tmp_path / "step_00000010"
    folder.mkdir()
    (folder / "manifest.json").write_text("digests of the files")
    (folder / "model.safetensors").write_bytes(b"weights")
    digest = digest_of(str(tmp_path))

    (folder / "manifest.json").write_text("digests of several other files")

    assert digest_of(str(tmp_path)) != digest


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="the folder is empty"):
        digest_of(str(tmp_path))
