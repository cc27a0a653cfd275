import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from server import free_port
from waiting import LONG

from piip.sync import main
from piip.tracking.delivery import deliver

ROOT = Path(__file__).parents[2]


def test_what_was_left_is_delivered_once(begin, store, capsys):
    sweep, trial = begin("sweep"), begin("trial", parent="sweep")
    trial.log(1, {"loss": 1.0})
    trial.finish("FINISHED")
    sweep.finish("FINISHED")

    assert main(json=True) == 0
    first = json.loads(capsys.readouterr().out)
    assert main() == 0
    second = capsys.readouterr().out

    assert first["events"] == 5
    assert {run["trial_key"]: run["state"] for run in first["runs"]} == {"sweep": "delivered", "trial": "delivered"}
    assert {run["run_id"] for run in first["runs"]} == {run.run_id for run in store.find_runs("tests")}
    assert "0 events of 2 runs delivered" in second
    assert second.count("up to date") == 2


@pytest.mark.slow
def test_a_lost_database_is_filled_again_from_the_journals(begin, store, piip_home):
    journal = begin()
    journal.log(1, {"loss": 1.0})
    deliver(journal.folder, store)
    (piip_home / "mlflow.db").rename(piip_home / "lost.db")

    # a process of its own: this one still has the old file open
    command = [sys.executable, "-m", "piip.sync", "--json"]
    document = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)

    assert [(run["state"], run["events"]) for run in document["runs"]] == [("delivered", 2)]


def test_a_deleted_run_is_skipped_with_a_line(begin, store, capsys):
    journal = begin()
    deliver(journal.folder, store)
    (run,) = store.find_runs("tests")
    with store._talking() as client:
        client.delete_run(run.run_id)

    assert main() == 0
    assert f"skipped: run {run.run_id} was deleted in MLflow" in capsys.readouterr().out


def test_a_server_that_is_down_is_one_line_and_exit_code_1(begin, monkeypatch, capsys):
    begin("one")
    begin("two")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")

    assert main(timeout=0.1) == 1

    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "connection refused" in err


def test_a_damaged_journal_is_named_and_the_others_go_on(begin, store, capsys):
    begin("bad")
    begin("good").log(1, {"loss": 1.0})
    (begin("bad").folder / "run.json").write_text('{"trial_key": "bad"}')

    assert main(json=True) == 1

    captured = capsys.readouterr()
    assert {r["trial_key"]: r["state"] for r in json.loads(captured.out)["runs"]} == {
        "bad": "failed",
        "good": "delivered",
    }
    assert "journals/bad: " in captured.err


def test_nothing_recorded_yet_is_fine(store, capsys):
    assert main() == 0
    assert "0 events of 0 runs delivered" in capsys.readouterr().out


@pytest.mark.slow
def test_two_syncs_at_once_deliver_once(begin, store):
    journals = [begin(f"trial{i}", parent="sweep") for i in range(3)] + [begin("sweep")]
    for journal in journals:
        for step in range(200):
            journal.log(step, {"loss": 1.0})

    command = [sys.executable, "-m", "piip.sync", "--json", "--timeout", str(LONG)]
    children = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=os.environ) for _ in range(2)]
    documents = [json.loads(child.communicate(timeout=LONG)[0]) for child in children]

    assert [child.returncode for child in children] == [0, 0]
    assert sum(document["events"] for document in documents) == 4 * 201
    runs = store.find_runs("tests")
    assert len(runs) == 4
    assert all(len(store.history(run.run_id, "loss")) == 200 for run in runs)
