"""The sender against a real `mlflow server` that is killed under it."""

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from server import MLflowServer
from waiting import LONG, wait_for

from piip.tracking.delivery import read_delivered
from piip.tracking.sender import Sender
from piip.tracking.store import Store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with MLflowServer(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture
def remote(server, monkeypatch) -> Store:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    return Store()


def rows(server: MLflowServer, experiment: str) -> Counter:
    """How often each (run's key, metric, step) is in the server's own table."""
    query = """select t.value, m.key, m.step from metrics m join runs r on r.run_uuid = m.run_uuid
        join tags t on t.run_uuid = r.run_uuid and t.key = 'piip.trial_key'
        join experiments e on e.experiment_id = r.experiment_id where e.name = ?"""
    with sqlite3.connect(server.folder / "server.db") as database:
        return Counter(database.execute(query, [experiment]).fetchall())


def test_a_server_killed_in_the_middle_ends_with_a_complete_history(begin, server, remote):
    sweep = begin("sweep", experiment="killed")
    trials = [begin(f"trial{i}", parent="sweep", experiment="killed") for i in range(2)]
    sender = Sender(["sweep", "trial0", "trial1"])
    sender.start()
    total = 0
    for kill in range(2):
        before = read_delivered(trials[0].folder, remote).offset
        for _ in range(1500):
            for trial in trials:
                trial.log(total, {f"m{i}": total / 3 for i in range(5)})
            total += 1
        # a batch is noted, the next one is on its way
        wait_for(lambda before=before: read_delivered(trials[0].folder, remote).offset > before)
        server.kill()
        for trial in trials:
            trial.log(total, {f"m{i}": float(kill) for i in range(5)})
        total += 1
        assert not sender.flush(1)
        server.start()
    for journal in (*trials, sweep):
        journal.finish("FINISHED")

    assert sender.flush(LONG)
    sender.stop()

    seen = rows(server, "killed")
    assert seen == Counter(
        {(f"trial{t}", f"m{i}", step): 1 for t in range(2) for i in range(5) for step in range(total)}
    )
    runs = {run.tags["piip.trial_key"]: run for run in remote.find_runs("killed")}
    assert sorted(runs) == ["sweep", "trial0", "trial1"]
    assert {run.status for run in runs.values()} == {"FINISHED"}
    told = remote.history(runs["trial1"].run_id, "m3")
    assert [(step, value) for step, value, _ in told] == trials[1].history("m3")


def test_a_sender_killed_in_the_middle_is_continued_by_sync(begin, server, remote):
    journal = begin(experiment="sender_killed")
    for step in range(6000):
        journal.log(step, {"loss": step / 3})
    command = [sys.executable, "-m", "piip.sync", "--json", "--timeout", str(LONG)]

    for _ in range(2):
        before = read_delivered(journal.folder, remote).offset
        child = subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=subprocess.DEVNULL)
        wait_for(lambda before=before: read_delivered(journal.folder, remote).offset > before)
        child.kill()
        child.wait()
    document = json.loads(subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, check=True).stdout)

    assert document["runs"][0]["state"] in ("delivered", "up to date")
    assert rows(server, "sender_killed") == Counter({("trial", "loss", step): 1 for step in range(6000)})
    assert len(remote.find_runs("sender_killed")) == 1


def test_artifacts_odd_numbers_and_long_values_pass_through_the_server(begin, remote, tmp_path):
    journal = begin("artifacts", experiment="artifacts", params={"long": "x" * 9000}, tags={"note": "y" * 9000})
    (tmp_path / "boxes.json").write_text("[]")
    journal.artifact(tmp_path / "boxes.json", "predictions/val.json")
    journal.log(1, {"nan": float("nan"), "inf": float("inf")})
    journal.finish("STOPPED")
    sender = Sender(["artifacts"])
    sender.start()

    assert sender.flush(LONG)
    sender.stop()

    (run,) = remote.find_runs("artifacts")
    assert run.status == "STOPPED"
    assert remote.download(run.run_id, "predictions/val.json").read_text() == "[]"
    assert str(run.metrics["nan"]) == "nan"
    assert run.metrics["inf"] == sys.float_info.max
    with pytest.raises(ValueError, match=f"no run 'nope' at {remote.uri}. Latest: "):
        remote.get_run("nope")
