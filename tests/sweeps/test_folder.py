"""The folder of a Ray of our own: its length, and what becomes of it when its process ends, well or not."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from sweeping import ROOT

from piip.scratch import LOCK
from piip.sweeps import folder as module
from piip.sweeps.folder import LONGEST, own_folder, place

OWNS = """
import sys
from piip.sweeps.folder import own_folder
with own_folder() as folder:
    print(folder.path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def base(monkeypatch):
    """A short folder for temporary files, as RAY_TMPDIR names it."""
    made = Path(tempfile.mkdtemp(prefix="b", dir="/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(made))
    yield made
    for left in made.iterdir():
        (left / LOCK).unlink()
        left.rmdir()
    made.rmdir()


def test_ray_finds_its_place_there_and_nothing_is_left(base):
    with own_folder() as folder:
        assert os.environ["RAY_TMPDIR"] == str(folder.path)
        assert folder.path.parent == base
        assert len(os.fsencode(f"{folder.path}{module.SOCKET}")) <= 107

    assert os.environ["RAY_TMPDIR"] == str(base)
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("name", ["of", "a/b"])
def test_what_failed_keeps_its_logs_elsewhere(base, tmp_path, name):
    place = tmp_path / name
    with own_folder() as folder:
        session = folder.path / "ray" / "session_1"
        (session / "logs").mkdir(parents=True)
        (folder.path / "ray" / "session_latest").symlink_to(session)
        (session / "logs" / "worker.err").write_text("why")
        folder.keep_logs_at = place

    assert (place / "worker.err").read_text() == "why"
    assert list(base.iterdir()) == []


def test_logs_that_cannot_be_kept_fail_nobody(base, tmp_path, caplog):
    (tmp_path / "file").touch()
    with own_folder() as folder:
        folder.keep_logs_at = tmp_path / "file" / "logs"

    assert "Ray's logs are not kept: " in caplog.text
    assert list(base.iterdir()) == []


def test_a_killed_process_leaves_it_to_the_next_which_leaves_alone_what_is_not_ours_or_lives(base):
    command = [sys.executable, "-c", OWNS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    owners = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    killed, alive = (Path(owner.stdout.readline().strip()) for owner in owners)
    owners[0].send_signal(signal.SIGKILL)
    owners[0].wait()
    somebodys = base / "piip12345678"
    somebodys.mkdir()
    assert killed.is_dir()

    with own_folder():
        assert not killed.exists()
        assert alive.is_dir()
        assert somebodys.is_dir()

    owners[1].communicate("")
    assert not alive.exists()
    (somebodys / LOCK).touch()  # for the end of the test


@pytest.fixture
def unset(monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)


def test_a_tmpdir_that_is_too_long_for_sockets_is_not_taken_and_said(unset, monkeypatch, caplog):
    usual = "/" + "x" * LONGEST
    monkeypatch.setattr(tempfile, "gettempdir", lambda: usual)

    assert place() == Path("/tmp")
    assert f"TMPDIR={usual} is too long for Ray's sockets: Ray's own files go to /tmp" in caplog.text
    monkeypatch.setattr(tempfile, "gettempdir", lambda: usual[:-1])
    assert place() == Path(usual[:-1])


def test_without_any_short_place_the_advice_is_to_name_one(unset, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/" + "x" * 90)
    monkeypatch.setattr(os, "access", lambda *_: False)

    with pytest.raises(
        ValueError, match=rf"and /tmp cannot be written. Set RAY_TMPDIR to a folder of at most {LONGEST} "
    ):
        place()


def test_a_place_that_somebody_named_and_is_too_long_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * 90)

    with pytest.raises(ValueError, match=r"^RAY_TMPDIR=/x+ has 91 bytes; .* export RAY_TMPDIR=/tmp$"):
        place()
