"""kill -9 at every level, and a tracking server that goes away: what is left equals what nothing had happened to."""

import itertools
import os
import signal
import statistics
import time

import psutil
import pytest
from server import MLflowServer
from sweeping import SweepCommand, journaled, last_step, outcome, tracked, worker_pid
from tiny import ROWS

from piip.training.journal import read_metrics

pytestmark = pytest.mark.slow

PIIP, VIT = (row.name for row in ROWS["pico"])
DRIVER, WORKER = "ray::ImplicitFunc", "RayTrainWorker"  # a Tune function is this actor


def test_kill_9_of_the_drivers_and_of_a_worker_changes_nothing(unkilled, new_home, data):
    home = new_home("killed_parts")

    with SweepCommand(home, data) as command:
        first = worker_pid(command.until_step(PIIP, 6))
        drivers = command.find(DRIVER)
        for driver in drivers:
            driver.kill()
        journal = command.until_step(PIIP, 16)  # by another worker of another driver
        worker = worker_pid(journal)
        assert worker in {process.pid for process in command.find(WORKER)}
        os.kill(worker, signal.SIGKILL)
        killed_at = last_step(journal)
        document = command.finish()

    assert drivers
    assert worker != first
    assert 16 <= killed_at < 30
    assert not psutil.pid_exists(worker)
    assert document["failed"] == []
    assert "Traceback" not in command.stderr
    assert_equals_unkilled(home, unkilled.home)


def test_kill_9_of_the_whole_sweep_and_the_same_command_again_changes_nothing(unkilled, new_home, data):
    home = new_home("killed_whole")

    with SweepCommand(home, data) as command:
        journal = command.until_step(PIIP, 12)
        children = command.find("")
        os.kill(command.process.pid, signal.SIGKILL)
        assert 12 <= last_step(journal) < 30
        psutil.wait_procs(children, timeout=60)
    with SweepCommand(home, data) as again:
        document = again.finish()

    assert document["failed"] == []
    assert_equals_unkilled(home, unkilled.home)


def assert_equals_unkilled(home, unkilled_home):
    for name in (PIIP, VIT):
        (metrics, tensors), (expected, expected_tensors) = outcome(home, name), outcome(unkilled_home, name)
        assert metrics == expected
        assert tensors.keys() == expected_tensors.keys() == {"model.safetensors", "state_rank0.safetensors"}
        assert tensors == expected_tensors  # bit for bit
    assert tracked(home / "mlflow.db") == journaled(home)


def test_a_tracking_server_that_dies_and_comes_back_costs_no_step_and_no_number(new_home, data, tmp_path):
    home = new_home("server")
    with MLflowServer(tmp_path / "mlflow") as server:
        with SweepCommand(home, data, "--set=train.steps=90", VIT, MLFLOW_TRACKING_URI=server.uri) as command:
            journal = command.until_step(VIT, 30)
            server.kill()
            down = time.time() * 1000
            command.until_step(VIT, 75)
            up = time.time() * 1000
            server.launch()
            document = command.finish()

        assert document["delivered"]
        assert tracked(server.folder / "server.db") == journaled(home)
    times = [ms for step, _, ms in read_metrics(journal)["train/loss"] if step > 5]
    steps = [(after - before, before) for before, after in itertools.pairwise(times)]
    usual = statistics.median(took for took, began in steps if not down <= began <= up)
    meanwhile = statistics.median(took for took, began in steps if down <= began <= up)
    print(f"median step {usual:.0f} ms with the server, {meanwhile:.0f} ms without")
    assert meanwhile < 2 * usual  # other people's processes come and go; a step that waited would take seconds
