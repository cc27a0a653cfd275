"""Ranks write one checkpoint together; what each may see when they wait for each other."""

import pytest
import torch

from piip.training import checkpoint, saving
from piip.training.manifest import Manifest


class Barriers:
    """Stands for all ranks' meeting: at each it does the next thing another rank would do, and notes what lies on disk."""

    def __init__(self, root, others=()):
        self.root, self.others, self.seen = root, iter(others), []

    def __call__(self):
        next(self.others, lambda: None)()
        self.seen.append({path.name: sorted(file.name for file in path.iterdir()) for path in self.root.iterdir()})


def save(root, rank, barrier, model=None):
    saving.save(
        root, Manifest(3, "key", 2, "ddp", []), model=model, state={"w:exp_avg": torch.full((2,), float(rank))}, rank=rank,
        barrier=barrier,
    )  # fmt: skip


WRITING, DONE = ".writing_step_00000003", "step_00000003"
STATES = ["state_rank0.safetensors", "state_rank1.safetensors"]


def test_the_first_rank_makes_room_and_gives_the_name_when_the_other_has_written(tmp_path):
    other = lambda: saving._write(tmp_path / WRITING / STATES[1], {"w:exp_avg": torch.ones(2)})  # noqa: E731
    meetings = Barriers(tmp_path, [lambda: None, other])

    save(tmp_path, 0, meetings, {"w": torch.zeros(2)})

    assert meetings.seen == [
        {WRITING: []},
        {WRITING: ["model.safetensors", *STATES]},
        {DONE: ["manifest.json", "model.safetensors", *STATES]},
    ]
    found = checkpoint.last(tmp_path)
    assert sorted(found.manifest.files) == ["model.safetensors", *STATES]
    assert [found.state(rank)["w:exp_avg"].tolist() for rank in (0, 1)] == [[0, 0], [1, 1]]


def test_another_rank_writes_its_state_and_nothing_else(tmp_path):
    meetings = Barriers(tmp_path, [lambda: (tmp_path / WRITING).mkdir()])

    save(tmp_path, 1, meetings, {"w": torch.zeros(2)})

    assert meetings.seen == [{WRITING: []}, {WRITING: STATES[1:]}, {WRITING: STATES[1:]}]


def test_an_interrupted_save_leaves_nothing_half_written(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 0, Barriers(tmp_path, [lambda: None, interrupted]), {"w": torch.zeros(2)})

    assert list(tmp_path.iterdir()) == []


def test_tensors_read_do_not_change_when_their_file_does(tmp_path):
    save(tmp_path, 0, lambda: None, {"w": torch.ones(1000)})
    found = checkpoint.last(tmp_path)
    weights = found.model()["w"]
    path = found.folder / "model.safetensors"

    path.write_bytes(bytes(path.stat().st_size))  # by another node of a shared file system

    assert (weights == 1).all()
