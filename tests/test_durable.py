"""What has to outlast a power cut is on the disk before anything says that it is there; the order of calls is what can be seen of it."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journals import begin

from piip.durable import copy_atomic, end_of_last_line, write_atomic
from piip.record.journal import Journal


@pytest.fixture
def said(monkeypatch):
    """What was brought to the disk, and renamed, in order: `sync <name>`, `rename <name>`."""
    calls = []
    fsync, replace = os.fsync, Path.replace

    def syncs(file):
        calls.append(f"sync {Path(f'/proc/self/fd/{file}').resolve().name}")
        fsync(file)

    def renames(path, target):
        calls.append(f"rename {Path(target).name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", syncs)
    monkeypatch.setattr(Path, "replace", renames)
    return calls


def of_what(calls):
    """Without the numbers of temporary names: `sync .note.12.345` is `sync .note`."""
    return [".".join(call.split(".")[:2]) for call in calls]


def test_a_small_file_is_on_disk_before_it_has_its_name_and_the_name_before_the_call_returns(tmp_path, said):
    write_atomic(tmp_path / "note", "new")

    assert of_what(said) == ["sync .note", "rename note", f"sync {tmp_path.name}"]
    assert (tmp_path / "note").read_text() == "new"


def test_a_copy_is_on_disk_before_it_has_its_name_and_the_name_before_the_call_returns(tmp_path, said):
    (tmp_path / "from").write_text("content")

    digest = copy_atomic(tmp_path / "from", tmp_path / "to")

    assert of_what(said) == ["sync .to", "rename to", f"sync {tmp_path.name}"]
    assert digest == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"  # sha256sum of "content"


def test_a_small_file_that_finds_no_room_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "note").write_text("old")

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "note", "new")

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"note": "old"}


def test_a_copy_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "to").write_text("old")

    with pytest.raises(FileNotFoundError):
        copy_atomic(tmp_path / "not there", tmp_path / "to")
    with pytest.raises(IsADirectoryError):
        copy_atomic(tmp_path, tmp_path / "to")

    assert [path.name for path in tmp_path.iterdir()] == ["to"]
    assert (tmp_path / "to").read_text() == "old"


def test_an_event_is_on_disk_before_the_caller_goes_on(said):
    journal = Journal(begin(), "1")
    said.clear()

    journal.log(1, {"loss": 1.0})

    assert said == ["sync events.jsonl"]


@given(start=st.binary(max_size=50), length=st.sampled_from([0, 1, 4095, 4096, 4097, 9000]), ended=st.booleans())
def test_the_last_line_ends_after_the_last_newline_however_long_what_follows(start, length, ended, tmp_path_factory):
    path = tmp_path_factory.mktemp("lines") / "file"
    content = start + b"x" * length + (b"\n" if ended else b"")
    path.write_bytes(content)

    with path.open("rb") as file:
        found = end_of_last_line(file.fileno(), len(content))

    assert found == content.rfind(b"\n") + 1
