import json
import math
import re
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from server import free_port
from waiting import LONG

from piip.presets import PICO, mask_rcnn_pico, piip
from piip.record.runs import RunRecord
from piip.tracking import store as store_module
from piip.tracking.connection import RefusedError, UnreachableError
from piip.tracking.store import RunInfo, Store, age
from piip.tracking.writer import PARAM_LENGTH, RunDeletedError

ROOT = Path(__file__).parents[2]
SPEC = mask_rcnn_pico(piip("TS", (128, 64), branches=PICO), steps=10)


def record(key: str = "trial", **changes) -> RunRecord:
    fields = {"name": f"name of {key}", "experiment": "tests", "parent_key": None, "created_ms": 1_700_000_000_000}
    return RunRecord(key, **{**fields, **changes})


def test_a_run_is_created_once_and_read_back(store):
    params = {name: str(value) for name, value in SPEC.flat().items()}
    new = record(params=params, tags={"piip.engine": "ddp"})

    run_id = store.ensure_run(new)
    again = Store().ensure_run(new)

    run = store.get_run(run_id)
    assert again == run_id
    assert run.params == params
    assert run.tags["piip.engine"] == "ddp"
    assert run.tags["piip.trial_key"] == "trial"
    assert (run.name, run.experiment, run.status) == ("name of trial", "tests", "PENDING")
    assert run.start_ms == new.created_ms
    assert [run.run_id for run in store.find_runs("tests")] == [run_id]


def test_a_journal_begun_anew_is_another_run(store):
    assert store.ensure_run(record()) != store.ensure_run(record(created_ms=5))
    assert len(store.find_runs("tests")) == 2


def test_a_trial_points_to_its_sweep(store):
    sweep = store.ensure_run(record("sweep"))
    trial = store.ensure_run(record("trial", parent_key="sweep"), sweep)

    assert store.get_run(trial).tags["mlflow.parentRunId"] == sweep


def test_more_params_than_fit_a_request_and_values_too_long_are_kept_and_cut(store):
    params = {f"p{i}": str(i) for i in range(250)} | {"long": "x" * 9000}

    run = store.get_run(store.ensure_run(record(params=params)))

    assert len(run.params) == 251
    assert len(run.params["long"]) == PARAM_LENGTH
    assert run.params["long"].endswith("[cut; see spec.json]")


def test_sending_a_batch_again_leaves_each_step_once(store):
    run_id = store.ensure_run(record())
    batch = [("loss", step / 7, 1000 + step, step) for step in range(2500)]
    batch += [("nan", math.nan, 1, 1), ("inf", math.inf, 1, 1), ("inf", -math.inf, 2, 2)]

    store.log_batch(run_id, batch, {"a": "1"})
    store.log_batch(run_id, batch[500:], {"a": "2"})
    store.log_batch(run_id, batch, {f"tag{i}": "x" * 9000 for i in range(120)})

    assert store.history(run_id, "loss") == [(step, step / 7, 1000 + step) for step in range(2500)]
    assert [(step, math.isnan(value)) for step, value, _ in store.history(run_id, "nan")] == [(1, True)]
    assert [value for _, value, _ in store.history(run_id, "inf")] == [sys.float_info.max, -sys.float_info.max]
    assert store.get_run(run_id).tags["a"] == "2"
    assert store.history(run_id, "never") == []


@pytest.mark.parametrize(
    ("status", "mlflow_status"),
    [
        ("FINISHED", "FINISHED"),
        ("FAILED", "FAILED"),
        ("KILLED", "KILLED"),
        ("STOPPED", "FINISHED"),
        ("RUNNING", "RUNNING"),
    ],
)
def test_every_status_is_one_of_mlflows_and_keeps_its_own_word(store, status, mlflow_status):
    run_id = store.ensure_run(record())

    store.set_status(run_id, status, 1_700_000_001_000)

    assert store.get_run(run_id).status == status
    with store._talking() as client:
        assert client.get_run(run_id).info.status == mlflow_status


def test_a_killed_run_goes_back_to_running(store):
    run_id = store.ensure_run(record())
    for status in ("RUNNING", "KILLED", "RUNNING"):
        store.set_status(run_id, status, 1_700_000_001_000)

    assert store.get_run(run_id).status == "RUNNING"
    with store._talking() as client:
        assert client.get_run(run_id).info.status == "RUNNING"


def test_the_spec_comes_back_equal(store, tmp_path):
    run_id = store.ensure_run(record(name=SPEC.name))
    (tmp_path / "spec.json").write_text(SPEC.model_dump_json())
    store.log_artifact(run_id, tmp_path / "spec.json")

    assert store.load_spec(run_id) == SPEC


def test_a_run_without_a_spec_says_so(store):
    run_id = store.ensure_run(record("sweep"))

    with pytest.raises(ValueError, match=r"has no spec\.json: a sweep's parent run"):
        store.load_spec(run_id)


def test_artifacts_of_one_name_in_two_folders_stay_apart(store, tmp_path, piip_home):
    run_id = store.ensure_run(record())
    for split in ("val", "test"):
        (tmp_path / "boxes.json").write_text(split)
        store.log_artifact(run_id, tmp_path / "boxes.json", f"predictions/{split}")

    paths = {split: store.download(run_id, f"predictions/{split}/boxes.json") for split in ("val", "test")}

    assert {split: path.read_text() for split, path in paths.items()} == {"val": "val", "test": "test"}
    assert sorted(p.name for p in store.download(run_id, "predictions").rglob("*.json")) == ["boxes.json"] * 2
    assert piip_home / "mlartifacts" in next((piip_home / "mlartifacts").rglob("boxes.json")).parents
    with pytest.raises(FileNotFoundError, match=r"no artifact 'predictions/none\.json'"):
        store.download(run_id, "predictions/none.json")


def test_metrics_of_a_verb_run_twice_are_there_once(store):
    run_id = store.ensure_run(record())

    store.log_metrics(run_id, {"test/coco/box_ap": 0.25}, 100)
    store.log_metrics(run_id, {"test/coco/box_ap": 0.25, "test/coco/mask_ap": 0.5}, 100)

    assert [(s, v) for s, v, _ in store.history(run_id, "test/coco/box_ap")] == [(100, 0.25)]
    assert store.get_run(run_id).metrics == {"test/coco/box_ap": 0.25, "test/coco/mask_ap": 0.5}
    with pytest.raises(ValueError, match="metric name"):
        store.log_metrics(run_id, {"coco/AP@50": 1.0}, 1)


def test_an_unknown_run_is_answered_with_the_latest_five_trials_that_began(store):
    ids = [store.ensure_run(record(f"t{i}", created_ms=1_700_000_000_000 + i)) for i in range(6)]
    sweep = store.ensure_run(record("sweep", created_ms=1_700_000_000_010, tags={"piip.kind": "sweep"}))
    for run_id in (*ids, sweep):
        store.set_status(run_id, "RUNNING", 1_700_000_000_020)
    store.ensure_run(record("never_started", created_ms=1_700_000_000_030))

    for call in (store.get_run, store.load_spec, lambda run_id: store.history(run_id, "loss")):
        with pytest.raises(ValueError, match="no run '546c'") as caught:
            call("546c")
        assert re.findall(r"([0-9a-f]{8}) \(", str(caught.value)) == [run_id[:8] for run_id in ids[:0:-1]]
        assert re.search(r"\(name of t5, \d+ d ago\)", str(caught.value))


def test_a_run_is_found_by_the_beginning_of_its_id(store):
    one, other = "546c935d" + "0" * 24, "546c935e" + "0" * 24
    with store._talking() as client:
        experiment = client.create_experiment("tests")
        for run_id in (one, other):
            made = client.create_run(experiment).info.run_id
            _rename(Path(store.uri.removeprefix("sqlite:///")), made, run_id)

    assert store.find_run("546c935d").run_id == store.find_run(one).run_id == one
    with pytest.raises(ValueError, match=rf"2 runs .* begin with '546c93': .*{one[:16]}") as refused:
        store.find_run("546c93")
    assert other[:16] in str(refused.value)
    with pytest.raises(ValueError, match=r"'546c9' is too short .* at least 6"):
        store.find_run("546c9")
    for unknown in ("546c935f", "546c93%"):
        with pytest.raises(ValueError, match=f"no run '{unknown}'"):
            store.find_run(unknown)


def _rename(database: Path, old: str, new: str) -> None:
    """MLflow chooses ids; two that begin alike are made by hand."""
    with sqlite3.connect(database) as connection:
        for (table,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall():
            for column in {row[1] for row in connection.execute(f"pragma table_info({table})")} & {
                "run_uuid",
                "run_id",
            }:
                connection.execute(f"update {table} set {column} = ? where {column} = ?", (new, old))


def test_an_unknown_experiment_is_answered_with_those_there_are(store):
    store.ensure_run(record(experiment="sweep_resolutions"))

    with pytest.raises(ValueError, match=r"no experiment 'sweep_resolution' .* There are: sweep_resolutions"):
        store.find_runs("sweep_resolution")


def test_all_pages_of_runs_are_found_newest_first(store, monkeypatch):
    monkeypatch.setattr(store_module, "PAGE", 3)
    with store._talking() as client:
        experiment = client.create_experiment("many")
        for i in range(1, 8):
            client.create_run(experiment, start_time=i, run_name=str(i))

    assert [run.start_ms for run in store.find_runs("many")] == [7, 6, 5, 4, 3, 2, 1]


def test_a_deleted_run_is_left_deleted(store):
    run_id = store.ensure_run(record())
    with store._talking() as client:
        client.delete_run(run_id)

    assert store.lifecycle(run_id) == "deleted"
    for call in (lambda: store.ensure_run(record()), lambda: store.get_run(run_id)):
        with pytest.raises(RunDeletedError, match=f"mlflow runs restore --run-id {run_id}"):
            call()


def test_a_deleted_experiment_is_refused_with_what_brings_it_back(store):
    run_id = store.ensure_run(record())
    with store._talking() as client:
        number = client.get_experiment_by_name("tests").experiment_id
        client.delete_experiment(number)
    back = f"MLFLOW_TRACKING_URI={store.uri} mlflow experiments restore -x {number}"

    for call in (
        lambda: store.ensure_run(record("other")),
        lambda: store.find_runs("tests"),
        lambda: store.get_run(run_id),
        lambda: store.ensure_run(record()),
    ):
        with pytest.raises(RunDeletedError, match=re.escape(back)):
            call()


def test_a_renamed_experiment_keeps_its_runs_and_gets_its_sweeps_new_ones(store):
    sweep = store.ensure_run(record("sweep"))
    old = store.ensure_run(record("old", parent_key="sweep"), sweep)
    with store._talking() as client:
        client.rename_experiment(client.get_experiment_by_name("tests").experiment_id, "renamed")

    new = store.ensure_run(record("new", parent_key="sweep"), sweep)
    store.drop_twins(record("new"), new)

    assert store.ensure_run(record("old"), sweep) == old
    assert {run.run_id for run in store.find_runs("renamed")} == {sweep, old, new}
    with pytest.raises(ValueError, match="There are: renamed"):
        store.find_runs("tests")


def test_a_run_that_a_late_request_made_twice_is_deleted(store, caplog):
    run_id = store.ensure_run(record())
    with store._talking() as client:
        info = client.get_run(run_id).info
        twin = client.create_run(info.experiment_id, info.start_time, {"piip.trial_key": "trial"}).info.run_id

    store.drop_twins(record(), run_id)

    assert [run.run_id for run in store.find_runs("tests")] == [run_id]
    assert f"deleting run {twin}" in caplog.text


def test_a_server_that_is_down_is_one_clear_line_without_the_password():
    port = free_port()
    store = Store(f"http://me:secret@127.0.0.1:{port}")

    with pytest.raises(UnreachableError) as caught:
        store.find_runs("tests")

    message = str(caught.value)
    assert message.startswith(f"MLflow at http://***@127.0.0.1:{port}: connection refused. ")
    assert "python -m piip.sync" in message
    assert "secret" not in message
    assert "\n" not in message


def test_what_mlflow_refuses_is_not_an_outage(store):
    with pytest.raises(RefusedError, match="MLflow refuses: "):
        store.log_batch("0" * 32, [("loss", 1.0, 1, 1)], {})


@pytest.mark.slow
def test_a_new_database_is_made_once_by_whoever_comes_first(piip_home, tmp_path):
    """Two processes at once: without the lock MLflow's migrations collide."""
    program = "from piip.tracking.store import Store; Store().lifecycle('0' * 32)"
    children = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE) for _ in range(2)]

    errors = [child.communicate(timeout=LONG)[1].decode() for child in children]

    assert [child.returncode for child in children] == [0, 0], errors
    assert (piip_home / "mlflow.db").exists()


def test_nothing_but_a_call_imports_mlflow():
    program = """
import json, sys
import piip.sync, piip.tracking.sender, piip.tracking.store, piip.record.journal
print(json.dumps([name for name in ("mlflow", "ray", "torch") if name in sys.modules]))
"""
    out = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True).stdout

    assert json.loads(out) == []


def test_threads_may_share_a_store(store):
    run_ids = [store.ensure_run(record(f"t{i}")) for i in range(4)]
    work = [
        threading.Thread(target=store.log_batch, args=(run_id, [("loss", 1.0, s, s) for s in range(100)], {}))
        for run_id in run_ids
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join(120)

    assert [len(store.history(run_id, "loss")) for run_id in run_ids] == [100] * 4


def test_a_run_is_plain_data(store):
    run = store.get_run(store.ensure_run(record()))

    assert isinstance(run, RunInfo)
    run.metrics["added"] = 1.0  # the report adds columns


@pytest.mark.parametrize(
    ("ms", "text"), [(40_000, "40 s"), (720_000, "12 min"), (3 * 3_600_000, "3 h"), (5 * 86_400_000, "5 d")]
)
def test_ages_read_as_people_say_them(ms, text):
    assert age(ms) == text
