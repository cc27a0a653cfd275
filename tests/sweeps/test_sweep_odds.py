"""Sweeps that end otherwise: a trial that ASHA stops, a machine without a compiler (and without git)."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from sweeping import SweepCommand, journaled, journals, tracked
from tiny import ROWS

from piip.record.events import read_events, read_metrics, read_status
from piip.tracking.store import Store

pytestmark = pytest.mark.slow

PIIP = ROWS["pico"][0].name


@pytest.fixture
def squares(coco_folder) -> Path:
    """Four dark images with a bright square in the middle, the same for training and validation: learned in 16 steps."""
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 60, (64, 64, 3), dtype=np.uint8)
        pixels[16:48, 16:48] += 150
        coco_folder.add_object(coco_folder.add_image(64, 64, pixels=pixels), (16, 16, 32, 32))
    source = coco_folder.write()
    (coco_folder.root / "annotations").mkdir()
    for split in ("train", "val"):
        (coco_folder.root / split).symlink_to(source.images)
        (coco_folder.root / "annotations" / f"instances_{split}.json").symlink_to(source.annotations)
    return coco_folder.root


def test_asha_stops_the_trial_that_does_not_learn(new_home, squares):
    home = new_home("asha")

    with SweepCommand(home, squares, "--asha", "--concurrent=1", script="race.py") as command:
        document = command.finish()

    learns, idles = (journals(home)[name] for name in ("learns", "idles"))
    scores = {folder: read_metrics(folder)["coco/box_ap"] for folder in (learns, idles)}
    assert document["failed"] == []
    assert [t["status"] for t in document["trials"]] == ["finished", "stopped"]
    assert (read_status(learns), read_status(idles)) == ("FINISHED", "STOPPED")
    assert [step for step, *_ in scores[learns]] == [8, 16, 24]
    assert scores[learns][-1][1] > 0.1 > max(score for _, score, _ in scores[idles])
    # at 16 at the latest it is behind; the order to stop comes when it comes
    assert 8 <= scores[idles][-1][0] < 1_000_000
    assert tracked(home / "mlflow.db") == journaled(home)
    runs = {run.name: run.status for run in Store(f"sqlite:///{home / 'mlflow.db'}").find_runs("race_pico_squares")}
    assert (runs["learns"], runs["idles"]) == ("FINISHED", "STOPPED")


@pytest.fixture
def tools(tmp_path) -> Path:
    """A folder for PATH with the tools of this machine (Ray starts its workers with bash), but no compiler and no git."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in (tool for place in os.get_exec_path() if Path(place).is_dir() for tool in Path(place).iterdir()):
        link = folder / tool.name
        if not re.search(r"\+\+|gcc|clang|^c?cc|^git", tool.name) and not link.is_symlink():
            link.symlink_to(tool)
    return folder


def test_without_a_compiler_one_line_says_so_and_a_sweep_runs_on_the_plain_path(tools, tmp_path, data):
    home = tmp_path / "home"
    home.mkdir()  # with no kernel compiled before

    with SweepCommand(home, data, "--set=train.steps=3", PIIP, PATH=str(tools)) as command:
        document = command.finish()

    assert document["failed"] == []
    assert [line for line in command.stderr.splitlines() if "no C++ compiler" in line and "apt install g++" in line]
    assert command.stderr.count("no C++ compiler") == 1
    assert "Traceback" not in command.stderr
    events = (event for event, _ in read_events(journals(home)[PIIP]) if event["kind"] == "tag")
    assert {e["tags"]["piip.kernel"] for e in events if "piip.kernel" in e["tags"]} == {"reference"}
    assert not list(home.glob("kernels/**/*.so"))
