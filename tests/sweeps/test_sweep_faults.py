"""kill -9 at every level, and a tracking server that goes away: what is left equals what nothing had happened to."""

import os
import signal

import psutil
import pytest
from server import MLflowServer
from sweeping import SweepCommand, journaled, journals, last_step, outcome, tracked, wait_for, worker_pid
from tiny import ROWS

from piip.record.events import read_events, read_metrics

pytestmark = pytest.mark.slow

PIIP, VIT = (row.name for row in ROWS["pico"])
DRIVER, WORKER = "ray::ImplicitFunc", "RayTrainWorker"  # a Tune function is this actor


def test_kill_9_at_every_level_and_the_same_command_again_change_nothing(unkilled, new_home, data):
    home = new_home("killed")
    workers = []

    with SweepCommand(home, data) as command:
        journal = command.until_step(PIIP, 6)
        workers.append(kill_driver(command, journal))  # its worker is training: Tune builds both again
        journal = until_a_new_worker_trains(command, workers)
        children = command.find("")
        os.kill(command.process.pid, signal.SIGKILL)  # the whole sweep
        psutil.wait_procs(children, timeout=60)
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
    """Waits for a worker of the PIIP trial that is none of `dead` to go on by two steps; the trial's journal."""
    journal = journals(command.home)[PIIP]
    wait_for(lambda: worker_pid(journal) not in [0, *dead] or command.process.poll() is not None)
    return command.until_step(PIIP, last_step(journal) + 2)


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
    with MLflowServer(tmp_path / "mlflow") as server:
        with SweepCommand(home, data, "--set=train.steps=60", VIT, MLFLOW_TRACKING_URI=server.uri) as command:
            journal = command.until_step(VIT, 20)
            server.kill()
            command.until_step(VIT, 45)
            server.launch()
            document = command.finish()

        assert document["delivered"]
        assert tracked(server.folder / "server.db") == journaled(home)
    # steps 20 to 45 were taken while nobody answered: none waited for the server, none is missing
    assert [step for step, _, _ in read_metrics(journal)["train/loss"]] == list(range(1, 61))


def test_the_same_sweep_in_two_terminals_trains_once_and_both_end_well(unkilled, new_home, data):
    home = new_home("twice")

    with SweepCommand(home, data, VIT) as first:
        journal = first.until_step(VIT, 3)
        # while the first trains or, where starting takes longer than that, after it: it trains once
        with SweepCommand(home, data, VIT) as second:
            documents = [first.finish(), second.finish()]

    assert [document["failed"] for document in documents] == [[], []]
    assert "trains it" not in first.stderr
    assert len(read_statuses(journal)) == 2  # RUNNING, FINISHED: nobody began it anew
    assert outcome(home, VIT) == outcome(unkilled.home, VIT)
    assert tracked(home / "mlflow.db") == journaled(home)


def read_statuses(journal) -> list[str]:
    return [event["status"] for event, _ in read_events(journal) if event["kind"] == "status"]
