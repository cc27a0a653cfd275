"""A sweep of two trials, whole: Tune, Train, DeepSpeed, journals, MLflow, and back by piip.eval."""

import json

import pyarrow.parquet as pq
import pytest
from sweeping import ROOT, SweepCommand, journaled, journals, outcome, tracked
from tiny import ROWS
from waiting import LONG

from piip import eval as evaluation
from piip.ops.compiled import cpu
from piip.record.code import code_digest
from piip.tracking.store import Store

pytestmark = pytest.mark.slow

PIIP, VIT = (row.name for row in ROWS["pico"])


@pytest.fixture
def store(unkilled, monkeypatch) -> Store:
    monkeypatch.setenv("PIIP_HOME", str(unkilled.home))
    return Store()


@pytest.fixture
def runs(store):
    return {run.name: run for run in store.find_runs("tiny_pico_squares")}


def test_a_sweep_is_a_parent_run_with_a_child_per_trial(unkilled, runs):
    (parent,) = (run for run in runs.values() if run.tags.get("piip.kind") == "sweep")

    assert {run.name for run in runs.values()} == {PIIP, VIT, parent.name}
    assert {run.tags.get("mlflow.parentRunId") for run in runs.values()} == {None, parent.run_id}
    assert {run.status for run in runs.values()} == {"FINISHED"}
    assert unkilled.document["failed"] == []


def test_everything_in_the_journals_is_in_mlflow_once(unkilled):
    assert tracked(unkilled.home / "mlflow.db") == journaled(unkilled.home)


def test_runs_have_params_costs_scores_and_tags(runs):
    run = runs[PIIP]

    assert run.params["model.backbone.branches.0.resolution"] == "96"
    assert run.params["train.batch_size"] == "2"
    assert {"cost/gflops", "cost/params_m", "cost/peak_memory_gb", "train/loss", "train/lr"} <= set(run.metrics)
    assert {"coco/box_ap", "coco/mask_ap", "best/coco/box_ap", "time/train_seconds"} <= set(run.metrics)
    assert run.tags["piip.engine"] == "deepspeed-zero0"
    assert run.tags["piip.code_digest"] == code_digest(ROWS["pico"][0])
    assert (run.tags["piip.workers"], run.tags["hardware.nodes"]) == ("1", "1")
    assert len(run.tags["data.train.digest"]) == 16


def test_the_plain_kernel_does_not_run_unasked(runs):
    try:
        cpu.find_compiler()
    except cpu.BuildError as error:
        pytest.skip(str(error))
    assert runs[PIIP].tags["piip.kernel"] == "cpp"


def test_the_spec_comes_back_equal_from_mlflow(store, runs):
    custom = {"data.name": "squares"}

    for row in ROWS["pico"]:
        assert store.load_spec(runs[row.name].run_id) == row.override(custom)


def test_predictions_are_kept_as_rows_and_pictures(store, runs):
    results = pq.read_table(store.download(runs[PIIP].run_id, "predictions/val.parquet")).to_pylist()

    assert all({"image_id", "category_id", "bbox", "score", "segmentation"} <= set(r) for r in results)
    assert store.download(runs[PIIP].run_id, "predictions/val_5.png").stat().st_size > 1000


def test_eval_finds_the_number_that_training_logged(store, runs, capsys):
    code = evaluation.main(evaluation.Options(runs[PIIP].run_id, json=True))

    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert document["step"] == 30
    assert document["metrics"] == pytest.approx(document["logged_before"], abs=1e-6)
    assert document["metrics"]["coco/box_ap"] == pytest.approx(dict(_history(store, runs[PIIP].run_id))[30], abs=1e-6)


def _history(store: Store, run_id: str) -> list[tuple[int, float]]:
    return [(step, value) for step, value, _ in store.history(run_id, "coco/box_ap")]


def test_finished_trials_are_not_run_again(unkilled, data):
    before = {name: (folder / "events.jsonl").read_bytes() for name, folder in journals(unkilled.home).items()}
    results = {name: outcome(unkilled.home, name) for name in (PIIP, VIT)}

    with SweepCommand(unkilled.home, data) as again:
        document = again.finish()

    assert "2 of 2 trials are finished already" in again.stderr
    assert document["share_outside_training"] is None
    assert [t["status"] for t in document["trials"]] == ["finished", "finished"]
    for name in (PIIP, VIT):
        assert (journals(unkilled.home)[name] / "events.jsonl").read_bytes() == before[name]
        assert outcome(unkilled.home, name) == results[name]


def test_a_person_sees_how_every_trial_ends_and_no_noise(unkilled):
    lines = unkilled.stderr.splitlines()

    # what is between depends on when progress looks (tests/sweeps/test_progress.py); at the end it always does
    for number, name in enumerate((PIIP, VIT), start=1):
        ends = [line for line in lines if f"] {number}/2 {name}  finished at step 30  box AP 0." in line]
        assert len(ends) == 1
    expected = ("scale pico", "starting Ray", "2 trials", "[", "writing the report")
    assert [line for line in lines if not line.startswith(expected)] == []
    assert {start for start in expected for line in lines if line.startswith(start)} == set(expected)
    assert str(ROOT) not in unkilled.stderr


@pytest.mark.long
def test_a_row_that_diverges_fails_alone(new_home, data):
    home = new_home("diverges")

    with SweepCommand(
        home, data, "--asha", "--set=optim.lr=1e30", "--set=optim.clip_norm=null", "--set=train.steps=3", VIT
    ) as bad:
        assert bad.process.wait(LONG) == 1

    (run,) = (run for run in Store(f"sqlite:///{home / 'mlflow.db'}").find_runs("tiny_pico_squares") if run.name == VIT)
    assert (run.status, bad.document["failed"]) == ("FAILED", [VIT])
    assert "FloatingPointError" in run.tags["piip.failure"]
    assert "finite at step" in run.tags["piip.failure"]
