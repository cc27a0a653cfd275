import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from kinds import DATA
from sweeping import ROOT
from tiny import ROWS

from piip import home
from piip.contracts import Score
from piip.record.driving import driving
from piip.record.events import read_events, read_metrics, read_status, read_tags
from piip.record.journal import Fenced, Journal
from piip.spec import Ade20kSpec
from piip.sweeps import launch
from piip.sweeps.asha import asha, shared_score
from piip.sweeps.plan import Planned, plan_trials
from piip.sweeps.resources import Resources


@pytest.fixture
def planned(tiny_coco) -> Planned:
    spec = ROWS["pico"][1].override({"data.name": "custom"})
    custom = {"train": tiny_coco, "val": tiny_coco}
    _, (planned,) = plan_trials([spec], experiment="e", resources=Resources(), custom=custom)
    return planned


def settle(planned: Planned, *, asha: bool = False, problem: str = "") -> str:
    return launch._settle(planned, launch.Sweep([planned.trial.spec], "e", asha=asha), problem)


def failure(planned: Planned) -> str:
    events = (event for event, _ in read_events(home.journal_dir(planned.trial.key)))
    (reason,) = (e["tags"]["piip.failure"] for e in events if e["kind"] == "tag" and "piip.failure" in e["tags"])
    return reason


def test_a_trial_that_tune_gave_up_on_has_failed_and_says_why(planned):
    status = settle(planned, problem="No space left on device")

    assert status == "FAILED" == read_status(home.journal_dir(planned.trial.key))
    assert failure(planned) == "its driver died too often: No space left on device"


def test_a_trial_that_failed_again_before_its_driver_wrote_anything_has_the_new_reason(planned):
    folder = home.journal_dir(planned.trial.key)
    journal = Journal(folder, "earlier")
    journal.tag({"piip.failure": "No space left on device"})
    journal.finish("FAILED")

    assert settle(planned) == "FAILED"
    assert read_tags(folder)["piip.failure"] == "No space left on device"
    assert settle(planned, problem="out of memory") == "FAILED"
    assert read_tags(folder)["piip.failure"] == "its driver died too often: out of memory"


@pytest.mark.parametrize(
    ("asha", "problem", "expected"), [(True, "", "STOPPED"), (False, "", "FAILED"), (True, "x", "FAILED")]
)
def test_only_asha_leaves_a_scored_trial_stopped(planned, asha, problem, expected):
    Journal(home.journal_dir(planned.trial.key), "attempt").log(10, {planned.trial.score.name: 0.1})

    assert settle(planned, asha=asha, problem=problem) == expected


@pytest.mark.parametrize("asha", [False, True])
def test_trials_of_an_interrupted_sweep_have_not_failed(planned, asha):
    """One that had begun, and one that had not."""
    folder, given = home.journal_dir(planned.trial.key), launch.Sweep([planned.trial.spec], "e", asha=asha)

    assert launch._settle(planned, given, interrupted=True) == "PENDING"

    worker = Journal(folder, "attempt")
    worker.log(10, {planned.trial.score.name: 0.1})
    assert launch._settle(planned, given, interrupted=True) == "KILLED"
    assert "piip.failure" not in read_tags(folder)
    with pytest.raises(Fenced):
        worker.log(20, {"train/loss": 1.0})
    assert launch._settle(planned, given, "No space left on device", interrupted=True) == "KILLED"


@pytest.mark.parametrize("data", DATA, ids=lambda data: data.kind)
def test_a_trial_without_the_score_of_its_data_was_not_stopped(planned, data):
    other = replace(planned, trial=replace(planned.trial, spec=planned.trial.spec.model_copy(update={"data": data})))
    journal = Journal(home.journal_dir(planned.trial.key), "attempt")
    journal.log(10, {f"best/{data.scores[0].name}": 0.1, f"{data.scores[-1].name}_large": 0.1})

    assert settle(other, asha=True) == "FAILED"


def test_a_trial_that_another_command_drives_is_left_to_it(planned, caplog, monkeypatch):
    folder = home.journal_dir(planned.trial.key)
    monkeypatch.setattr(launch, "PATIENCE_S", 0)
    worker = Journal(folder, "worker of the other command")

    with driving(folder, "another"):
        assert settle(planned) == "RUNNING"
        assert f"{planned.trial.spec.name} is left to process {os.getpid()} on " in caplog.text
        worker.log(5, {"train/loss": 1.0})  # nobody fenced it off

    assert settle(planned) == "FAILED"  # it has died


def test_planning_and_drawing_fence_nobody_off(planned, tiny_coco):
    folder = home.journal_dir(planned.trial.key)
    worker = Journal(folder, "worker")

    plan_trials([planned.trial.spec], experiment="e", resources=Resources(), custom=planned.trial.sources)
    Journal(folder, "a guest", running=False).tag({"hardware.nodes": "1"})
    worker.log(5, {"train/loss": 1.0})

    assert [step for step, *_ in read_metrics(folder)["train/loss"]] == [5]


class Stopped:
    """What ASHA asks of a trial."""

    def __init__(self, name: str) -> None:
        self.trial_id = name


@pytest.mark.parametrize(("mode", "decisions"), [("max", "CONTINUE STOP"), ("min", "CONTINUE CONTINUE")])
def test_asha_stops_what_the_score_ranks_last(mode, decisions):
    score, scheduler = Score("toy/error", "error", mode), asha(Score("toy/error", "error", mode))
    trials = [Stopped("first"), Stopped("second")]
    for trial in trials:
        scheduler.on_trial_add(None, trial)

    said = [
        scheduler.on_trial_result(None, trial, {"step": 8, score.name: value, "toy/other": 1.0})
        for trial, value in zip(trials, (0.5, 0.1), strict=True)
    ]

    assert said == decisions.split()


def test_asha_among_several_scores_is_refused_before_anything_starts():
    detection = ROWS["pico"][0]
    segmentation = detection.model_copy(update={"data": Ade20kSpec()})
    assert shared_score([detection, detection]) == detection.data.scores[0]
    message = (
        "these rows have 2: box AP (coco/box_ap), mIoU (ade20k/miou). Name rows of one of them, or leave --asha out"
    )

    with pytest.raises(ValueError, match=re.escape(message)):
        launch.run_sweep(launch.Sweep([detection, segmentation], "e", asha=True))
    assert not home.journal_dir("any").parent.exists()


def test_a_failed_trial_fails_the_sweep(planned):
    parent = home.journal_dir(planned.trial.key).parent
    (sweep,) = (folder for folder in parent.iterdir() if folder.name.startswith("sweep-"))

    launch._close_parent(sweep.name, ["FINISHED", "FAILED"])

    assert read_status(sweep) == "FAILED"
    launch._close_parent(sweep.name, ["FINISHED", "PENDING"])
    assert read_status(sweep) == "KILLED"
    launch._close_parent(sweep.name, ["FINISHED", "STOPPED"])
    assert read_status(sweep) == "FINISHED"


@pytest.mark.slow
def test_a_trials_driver_and_controller_wait_for_no_network():
    # three processes a trial import this file; only the worker needs what takes seconds
    heavy = "{'torchvision', 'timm', 'deepspeed', 'mlflow', 'piip.models'}"
    script = f"import sys, piip.sweeps.worker; print(sorted({heavy} & set(sys.modules)))"

    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
