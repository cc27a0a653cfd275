import json
import shlex
from pathlib import Path

import pytest
from tiny import ROWS

from piip import home
from piip.counting.cost import Cost
from piip.evaluation.pictures import _threshold
from piip.record.journal import Journal, RunRecord, create_run
from piip.record.trial import Trial
from piip.sweeps.launch import Outcome, Sweep
from piip.sweeps.plan import Planned
from piip.sweeps.summary import _print_time, _surest, print_outcome


def test_the_next_command_shows_the_image_of_the_surest_prediction(tiny_coco, monkeypatch):
    monkeypatch.chdir(tiny_coco.images.parent)
    trial = Trial(ROWS["pico"][0], "key", {"val": tiny_coco})
    assert _surest(trial) == "YOUR_IMAGE.jpg"

    predictions = home.journal_dir("key") / "artifacts" / "predictions" / "val.json"
    predictions.parent.mkdir(parents=True)
    predictions.write_text(json.dumps([{"image_id": 10, "score": 0.05}, {"image_id": 16, "score": 0.1}]))

    image, flag, threshold = shlex.split(_surest(trial))
    assert (image, flag) == ("images/000000000016.jpg", "--score-threshold")
    assert Path(image).is_file()
    assert 0.05 < float(threshold) < 0.1


def test_a_failed_trial_is_named_with_its_reason(capsys):
    trial = Trial(ROWS["pico"][0], "failed-1", {})
    folder = create_run(RunRecord("failed-1", trial.spec.name, "tests", None, {}, {}))
    Journal(folder, attempt="1").tag({"piip.failure": "DataError: 4.jpg: cannot be decoded"})
    planned = Planned(trial, Cost(1.0, 1.0, {}), "FAILED", 10)

    _print_time(Outcome([planned], ["FAILED"], 61.0, None, delivered=True))

    said = capsys.readouterr()
    assert said.out == "time:    1 min 01 s\n"
    assert said.err == f"FAILED:  {trial.spec.name}: DataError: 4.jpg: cannot be decoded\n"


@pytest.mark.parametrize(
    ("fresh", "command"), [(False, "the same command"), (True, "the same command without --fresh")]
)
def test_a_sweep_with_failed_trials_ends_with_how_many_and_what_tries_them_again(capsys, fresh, command):
    planned = []
    for key, spec in zip(("failed-1", "fine-1"), ROWS["pico"], strict=True):
        create_run(RunRecord(key, spec.name, "tests", None))
        planned.append(Planned(Trial(spec, key, {}), Cost(1.0, 1.0, {}), "PENDING", 10))
    sweep = Sweep([p.trial.spec for p in planned], "tests", fresh=fresh)

    def last_line(*statuses: str) -> str:
        print_outcome(sweep, Outcome(planned, list(statuses), 61.0, 0.5, delivered=False), as_json=False)
        return capsys.readouterr().err.splitlines()[-1]

    assert last_line("FAILED", "FINISHED") == f"1 of 2 failed: {command} tries them again"
    assert "tries" not in last_line("FINISHED", "FINISHED")


def test_pictures_show_a_weak_networks_surest_guesses():
    assert _threshold([]) == 0.5
    assert _threshold([{"score": 0.2}, {"score": 0.05}]) == 0.1
    assert _threshold([{"score": 0.7}, {"score": 0.3}]) == 0.5
