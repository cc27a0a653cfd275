"""Folders for what is being made: what becomes of them when their process ends, well or not."""

import signal
import subprocess
import sys
from pathlib import Path

from piip.home import package_root
from piip.scratch import LOCK, make, scratch

OWNS = """
import sys
from pathlib import Path
from piip.scratch import scratch
with scratch(Path(sys.argv[1]), ".predictions-") as own:
    print(own, flush=True)
    sys.stdin.read()
"""
PREFIX = ".predictions-"


def test_nothing_is_left_of_it(tmp_path):
    with scratch(tmp_path, PREFIX) as own:
        (own / "a").touch()
        assert own.name.startswith(PREFIX)

    assert list(tmp_path.iterdir()) == []


def test_the_next_one_removes_what_dead_processes_left_and_nothing_else(tmp_path):
    owners = [
        subprocess.Popen(
            [sys.executable, "-c", OWNS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=package_root()
        )
        for _ in range(2)
    ]  # fmt: skip
    dead, alive = (Path(owner.stdout.readline().strip()) for owner in owners)
    owners[0].send_signal(signal.SIGKILL)
    owners[0].wait()
    somebodys = [
        tmp_path / ".predictions-12345678",
        tmp_path / ".predictions-of mine",
        tmp_path / "predictions-12345678",
    ]
    for folder in somebodys:  # the first one looks like ours, and has no lock
        folder.mkdir()
    for folder in somebodys[1:]:
        (folder / LOCK).touch()
    assert dead.is_dir()

    with scratch(tmp_path, PREFIX) as own:
        assert {*tmp_path.iterdir()} == {own, alive, *somebodys}

    owners[1].communicate("")
    assert {*tmp_path.iterdir()} == {*somebodys}


def test_a_prefix_is_no_pattern(tmp_path):
    other, lock = make(tmp_path, "ab-")
    lock.release()

    with scratch(tmp_path, "[ab]b-"):
        assert other.is_dir()
