"""What a worker writes down, and which evaluation is the best one."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from piip import home
from piip.contracts import Score
from piip.record.events import read_events
from piip.record.journal import Fenced
from piip.record.runs import RunRecord, create_run
from piip.training import checkpoint
from piip.training.manifest import Manifest
from piip.training.recorder import Recorder, best_so_far


@pytest.mark.parametrize(("mode", "bests"), [("max", [1, 3]), ("min", [1, 2])])
def test_the_scores_mode_says_which_evaluation_is_the_best(mode, bests, tmp_path):
    score, values = Score("toy/error", "error", mode), {1: 0.5, 2: 0.4, 3: 0.6, 4: 0.5}

    said = {step: best_so_far(tmp_path, score, step, {score.name: v, "toy/b": 1.0}) for step, v in values.items()}

    assert [step for step in said if said[step]] == bests
    last = bests[-1]
    assert said[last] == {"best/toy/error": values[last], "best/toy/b": 1.0}
    assert checkpoint.best_mark(tmp_path) == (last, values[last])


def test_the_step_that_is_the_best_already_is_said_again_and_no_score_is_no_best(tmp_path):
    score = Score("toy/error", "error", "min")
    for _ in range(2):
        assert best_so_far(tmp_path, score, 1, {score.name: 0.5}) == {"best/toy/error": 0.5}

    assert best_so_far(tmp_path, score, 2, {"toy/b": 0.1}) == {}
    assert checkpoint.best_mark(tmp_path) == (1, 0.5)


def test_rank_0_alone_writes():
    folder = create_run(RunRecord("key", "key", "tests", None))
    silent = Recorder("key", rank=1, world_size=1)
    for recorder in (Recorder("key", rank=0, world_size=1), silent):
        recorder.doing("building the network")
        recorder.log(1, {"train/loss": 1.0})
        recorder.tag({"piip.engine": "ddp"})
        recorder.keep_predictions(pa.table({"image_id": [3]}), [], last=True, best=False)
        recorder.finish()

    assert silent.spent_before(Manifest(1, "key", 1, "ddp", [], {"time/train_seconds": 5.0})) == {}
    kinds = [event["kind"] for event, _ in read_events(folder)]
    assert kinds == ["status", "metric", "tag", "artifact", "status"]
    assert (home.journal_dir("key") / "doing").read_text() == "building the network"


def test_what_is_recorded_of_a_step_is_known():
    create_run(RunRecord("key", "key", "tests", None))
    recorder = Recorder("key", rank=0, world_size=1)
    recorder.log(4, {"toy/error": 0.5})

    assert recorder.has("toy/error", 4)
    assert not recorder.has("toy/error", 2)
    assert not recorder.has("toy/other", 4)


def test_what_attempts_took_is_the_journals_where_it_knows_more():
    create_run(RunRecord("key", "key", "tests", None))
    recorder = Recorder("key", rank=0, world_size=1)
    recorder.log(4, {"time/eval_seconds": 9.0})
    spent = {"time/train_seconds": 5.0, "time/eval_seconds": 3.0}

    assert recorder.spent_before(Manifest(4, "key", 1, "ddp", [], spent)) == spent | {"time/eval_seconds": 9.0}
    assert recorder.spent_before(Manifest(3, "key", 1, "ddp", [], spent)) == spent


def test_a_replaced_attempt_leaves_nothing_of_its_predictions():
    folder = create_run(RunRecord("key", "key", "tests", None))
    old, new = (Recorder("key", rank=0, world_size=1) for _ in range(2))
    new.keep_predictions(pa.table({"image_id": [3]}), [], last=True, best=False)

    with pytest.raises(Fenced):
        old.keep_predictions(pa.table({"image_id": [4]}), [], last=True, best=True)

    kept = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))
    assert kept == ["artifacts/predictions/val.parquet", "predictions.parquet"]
    assert [pq.read_table(folder / name)["image_id"].to_pylist() for name in kept] == [[3], [3]]
    assert not list(folder.glob(".predictions-*"))


def test_numbers_of_classes_are_kept_beside_predictions():
    folder = create_run(RunRecord("key", "key", "tests", None))
    rows = [{"id": 7, "name": "dog", "iou": 0.5}, {"id": 9, "name": "cat"}]

    Recorder("key", rank=0, world_size=1).keep_predictions(pa.table({"image_id": [3]}), rows, last=True, best=True)

    for name in ("val", "best"):
        assert json.loads((folder / f"artifacts/predictions/{name}_per_class.json").read_text()) == rows
