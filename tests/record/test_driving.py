"""Who drives a trial: one at a time, and nobody who is dead."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import piip
from piip.durable import locked
from piip.record.driving import LOCK, driving, who_drives

ROOT = str(Path(piip.__file__).parent.parent)
DRIVES = """
import sys, time
from pathlib import Path
from piip.record.driving import driving
with driving(Path(sys.argv[1]), "first"):
    print("drives", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def first(tmp_path):
    """A process that drives until its stdin ends."""
    command = [sys.executable, "-c", DRIVES, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    assert process.stdout.readline() == "drives\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_one_is_told_who_drives_and_may_leave_it(first, tmp_path):
    driver = who_drives(tmp_path)

    assert driver
    assert (driver.command, driver.pid) == ("first", first.pid)
    assert str(driver).startswith(f"process {first.pid} on {driver.host} since 20")
    with pytest.raises(BlockingIOError), driving(tmp_path, "second", patience=0):
        pytest.fail("both drive")


def test_a_second_one_may_wait_until_the_first_is_done(first, tmp_path):
    entered = threading.Event()

    def drive() -> None:
        with driving(tmp_path, "second"):
            entered.set()

    waiting = threading.Thread(target=drive)
    waiting.start()
    assert not entered.is_set()
    first.stdin.close()
    waiting.join()

    assert entered.is_set()
    assert who_drives(tmp_path) is None


def test_a_driver_that_was_killed_drives_no_more(first, tmp_path):
    first.send_signal(signal.SIGKILL)
    first.wait()

    assert (tmp_path / "driver.json").exists()
    assert who_drives(tmp_path) is None
    with driving(tmp_path, "second", patience=0):
        assert (tmp_path / "driver.json").read_text().startswith('{"command": "second"')


def test_who_waits_long_for_a_lock_is_told_for_which(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("piip.durable.LONG_S", 0)
    inside, met = [True], []

    def wait():
        with locked(tmp_path / LOCK):
            met.append(inside[0])

    with locked(tmp_path / LOCK):
        waiting = threading.Thread(target=wait)
        waiting.start()
        while "waiting for another process" not in caplog.text:
            assert waiting.is_alive()
            time.sleep(0.001)
        inside[0] = False
    waiting.join()

    assert met == [False]  # it went in when nobody was
    assert f"waiting for another process that holds {tmp_path / LOCK}" in caplog.text
