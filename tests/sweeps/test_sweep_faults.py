"""kill -9 at every level, and a tracking server that goes away: what is left equals what nothing had happened to."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from server import MLflowServer
from sweeping import (
    ROOT,
    SweepCommand,
    clean_environment,
    hold,
    journaled,
    journals,
    last_step,
    let_go,
    outcome,
    tracked,
    worker_pid,
)
from tiny import ROWS
from waiting import LONG, wait_for

from piip.record.events import read_events, read_metrics
from piip.tracking.journaled import run_of
from piip.tracking.store import Store

pytestmark = pytest.mark.slow

PIIP, VIT = (row.name for row in ROWS["pico"])
DRIVER, WORKER = "ray::ImplicitFunc", "RayTrainWorker"  # a Tune function is this actor


def test_kill_9_at_every_level_and_the_same_command_again_change_nothing(unkilled, new_home, data):
    home = new_home("killed")
    workers = []
    hold(home, 6)  # nobody is killed before, or after, its training

    with SweepCommand(home, data) as command:
        journal = command.until_step(PIIP, 6)
        workers.append(kill_driver(command, journal))  # its worker is training: Tune builds both again
        journal = until_a_new_worker_trains(command, workers)
        children = command.find("")
        os.kill(command.process.pid, signal.SIGKILL)  # the whole sweep
        psutil.wait_procs(children, timeout=LONG)
        workers.append(worker_pid(journal))
    with SweepCommand(home, data, CPUS="1") as command:  # none to spare
        journal = until_a_new_worker_trains(command, workers)
        workers.append(kill_worker(command, journal))  # Ray Train builds it again
        journal = until_a_new_worker_trains(command, workers)
        before = pids(command.find(WORKER))
        workers.append(kill_worker(command, journal))
        wait_for(lambda: set(pids(command.find(WORKER))) - set(before))
        # while Ray Train builds the worker: nobody but the next driver gives its CPU back
        kill_driver(command, journal)
        let_go(home)
        document = command.finish()

    assert len(set(workers)) == 4
    assert document["failed"] == []
    assert "Traceback" not in command.stderr
    for name in (PIIP, VIT):
        (metrics, tensors), (expected, expected_tensors) = outcome(home, name), outcome(unkilled.home, name)
        assert metrics == expected
        assert tensors.keys() == expected_tensors.keys() == {"model.safetensors", "state_rank0.safetensors"}
        assert tensors == expected_tensors  # bit for bit
    assert tracked(home / "mlflow.db") == journaled(home)


def until_a_new_worker_trains(command, dead):
    """Waits for a worker of the PIIP trial that is none of `dead`, and lets it go on by two steps; the trial's journal."""
    journal = journals(command.home)[PIIP]
    wait_for(lambda: worker_pid(journal) not in [0, *dead] or command.process.poll() is not None)
    step = last_step(journal) + 2
    hold(command.home, step)
    return command.until_step(PIIP, step)


def kill_worker(command, journal) -> int:
    worker = worker_pid(journal)
    assert worker in pids(command.find(WORKER, journal.name))
    os.kill(worker, signal.SIGKILL)
    assert 6 <= last_step(journal) < 30  # in the middle of its training
    return worker


def kill_driver(command, journal) -> int:
    """Returns the worker it had."""
    (driver,) = command.find(DRIVER, journal.name)
    driver.kill()
    assert 6 <= last_step(journal) < 30
    return worker_pid(journal)


def pids(processes) -> list[int]:
    return [process.pid for process in processes]


def test_a_tracking_server_that_dies_and_comes_back_costs_no_step_and_no_number(new_home, data, tmp_path):
    home = new_home("server")
    hold(home, 20)
    with MLflowServer(tmp_path / "mlflow") as server:
        with SweepCommand(
            home,
            data,
            "--set=train.steps=60",
            VIT,
            MLFLOW_TRACKING_URI=server.uri,
            MLFLOW_HTTP_REQUEST_TIMEOUT=str(LONG),
        ) as command:
            journal = command.until_step(VIT, 20)
            server.kill()
            hold(home, 45)
            command.until_step(VIT, 45)
            server.start()
            let_go(home)
            document = command.finish()

        assert document["delivered"]
        assert tracked(server.folder / "server.db") == journaled(home)
    # steps 20 to 45 were taken while nobody answered: none waited for the server, none is missing
    assert [step for step, _, _ in read_metrics(journal)["train/loss"]] == list(range(1, 61))


def test_the_same_sweep_from_another_host_and_eval_disturb_nobody_who_trains(unkilled, new_home, data):
    home = new_home("twice")
    hold(home, 8)

    with SweepCommand(home, data, VIT, HOST="one") as first:
        journal = first.until_step(VIT, 8)  # a checkpoint of step 5 is there
        with SweepCommand(home, data, VIT, HOST="other") as second:
            wait_for(lambda: "trains it: waiting for that" in second.stderr or second.process.poll() is not None)
            scored = scores(home, VIT)
            let_go(home)
            documents = [first.finish(), second.finish()]

    assert (scored["step"], set(scored["metrics"])) == (
        5,
        {name for name in read_metrics(journal) if name.startswith("coco/")},
    )
    assert [document["failed"] for document in documents] == [[], []]
    assert " on one since 20" in second.stderr
    assert "trains it" not in first.stderr
    assert read_statuses(journal) == ["RUNNING", "FINISHED"]  # nobody began it anew
    assert outcome(home, VIT) == outcome(unkilled.home, VIT)
    by_eval = {(VIT, name, 5): 1 for name in scored["metrics"]}
    assert tracked(home / "mlflow.db") == journaled(home) | by_eval


def scores(home, name) -> dict:
    """`piip eval` of a run that is still trained."""
    store = Store(f"sqlite:///{home / 'mlflow.db'}")
    wait_for(lambda: run_of(journals(home)[name], store).run_id != journals(home)[name].name)  # MLflow knows it
    run_id = run_of(journals(home)[name], store).run_id
    command = [sys.executable, "-m", "piip.eval", "--run-id", run_id, "--json"]
    said = subprocess.run(
        command, env=clean_environment(PIIP_HOME=str(home)), cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(said.stdout)


def read_statuses(journal) -> list[str]:
    return [event["status"] for event, _ in read_events(journal) if event["kind"] == "status"]
