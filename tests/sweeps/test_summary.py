import json
import re
import shlex
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kinds import DATA
from synthetic import ERROR, sweep
from tiny import ROWS

from piip import home
from piip.counting.costs import Cost
from piip.record.journal import Journal
from piip.record.runs import RunRecord, create_run
from piip.record.scores import as_tags
from piip.record.trial import Trial
from piip.reports.ranking import rankings
from piip.spec import Ade20kSpec
from piip.sweeps import summary
from piip.sweeps.launch import Outcome, Sweep
from piip.sweeps.plan import Planned
from piip.sweeps.summary import _print_best, _print_time, _surest, _typed, print_outcome


def test_the_next_command_shows_the_image_of_the_surest_prediction(tiny_coco, monkeypatch):
    monkeypatch.chdir(tiny_coco.images.parent)
    trial = Trial(ROWS["pico"][0], "key", {"val": tiny_coco})
    assert _surest(trial) == "YOUR_IMAGE.jpg"

    predictions = home.journal_dir("key") / "artifacts" / "predictions" / "val.parquet"
    predictions.parent.mkdir(parents=True)
    names = ["000000000010.jpg", "000000000016.jpg"]
    pq.write_table(pa.table({"image_id": [10, 16], "file_name": names, "score": [0.05, 0.1]}), predictions)

    image, flag, threshold = shlex.split(_surest(trial))
    assert (image, flag) == ("images/000000000016.jpg", "--score-threshold")
    assert Path(image).is_file()
    assert 0.05 < float(threshold) < 0.1

    pq.write_table(pa.table({"image_id": [10, 16], "file_name": names}), predictions)  # of results without scores: maps
    assert _surest(trial) == "images/000000000010.jpg"


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
    given = Sweep([p.trial.spec for p in planned], "tests", fresh=fresh)

    def last_line(*statuses: str, interrupted: bool = False) -> str:
        outcome = Outcome(planned, list(statuses), 61.0, 0.5, delivered=False, interrupted=interrupted)
        print_outcome(given, outcome, as_json=False)
        return capsys.readouterr().err.splitlines()[-1]

    assert last_line("FAILED", "FINISHED") == f"1 of 2 failed: {command} tries them again"
    assert "tries" not in last_line("FINISHED", "FINISHED")
    assert last_line("FINISHED", "KILLED", interrupted=True) == (
        f"interrupted: 1 of 2 trials are finished, {command} goes on with the others"
    )


@pytest.mark.parametrize("data", DATA, ids=lambda data: data.kind)
def test_a_sweep_that_mlflow_has_not_heard_of_tells_scores_from_its_journals(capsys, data):
    planned, first = [], data.scores[0]
    for key, spec, value in zip(("scored-1", "silent-1"), ROWS["pico"], (0.25, None), strict=True):
        params = {name: str(value) for name, value in spec.flat().items()}
        record = RunRecord(key, spec.name, "tests", "sweep", params, as_tags(data.scores))
        journal = Journal(create_run(record), attempt="1")
        journal.log(10, {f"best/{first.name}": 0.5, first.name: value} if value else {"train/loss": 1.0})
        trial = Trial(spec.model_copy(update={"data": data}), key, {})
        planned.append(Planned(trial, Cost(1.0, 1.0, {}), "PENDING", 10))
    given = Sweep([p.trial.spec for p in planned], "tests")
    outcome = Outcome(planned, ["FINISHED", "STOPPED"], 61.0, 0.5, delivered=False)

    print_outcome(given, outcome, as_json=False)
    said = capsys.readouterr()
    print_outcome(given, outcome, as_json=True)
    document = json.loads(capsys.readouterr().out)

    assert re.search(r"PIIP-TB 96/64 +0\.500 running +–", said.out)  # no run id: MLflow has none
    assert "next:" not in said.out
    assert "has not everything yet. When it is back: python -m piip.sync" in said.err
    assert [(t["score_name"], t["score"]) for t in document["trials"]] == [(first.name, 0.5), (first.name, None)]
    assert document["report"] is None


def test_the_best_trial_of_each_score_is_what_to_look_at_next(capsys, monkeypatch, tiny_coco):
    store, other = sweep(failed=False), sweep(failed=False, scores=ERROR)
    for run in other.runs[1:]:
        run.run_id = f"err{run.run_id[3:]}"
    runs = [*store.runs, *other.runs[1:], *sweep(scores=Ade20kSpec.scores).runs[-1:]]
    trial = Trial(ROWS["pico"][0], "key", {"val": tiny_coco})

    monkeypatch.setattr(summary, "_typed", lambda command, module: command)

    _print_best(rankings(runs), {run.run_id: trial for run in runs})

    commands = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [command.split(" --run-id")[0] for command in commands] == 2 * [
        "piip eval",
        "piip predict",
    ]  # none was scored by mIoU
    best = next(run.run_id for run in runs if run.metrics.get("best/coco/box_ap") == 0.452)[:8]
    lowest = next(run.run_id for run in runs if run.metrics.get("best/toy/error") == 0.341)[:8]
    assert commands[0] == f"piip eval --run-id {best}      # score the best trial by box AP on demo again"
    assert commands[1].startswith(f"piip predict --run-id {best} YOUR_IMAGE.jpg ")
    assert commands[2] == f"piip eval --run-id {lowest}      # score the best trial by error on demo again"


@pytest.mark.parametrize(
    ("here", "elsewhere", "typed"),
    [
        ("piip python", "", "piip eval"),
        ("python", "piip", "python -m piip.eval"),
        ("", "", "bin/python3 -m piip.eval"),
        ("", "piip python", "bin/python3 -m piip.eval"),
    ],
)
def test_commands_are_shown_as_this_shell_takes_them(tmp_path, monkeypatch, here, elsewhere, typed):
    for folder, names in (("bin", here), ("other", elsewhere)):
        (tmp_path / folder).mkdir()
        for name in names.split():
            (tmp_path / folder / name).touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python3"))
    monkeypatch.setenv("PATH", f"{tmp_path}/other:{tmp_path}/bin" if elsewhere else f"{tmp_path}/bin")

    assert _typed("piip eval", "piip.eval") == typed
