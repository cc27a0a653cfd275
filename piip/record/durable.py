"""Files that a crash leaves whole: written atomically, appended under a lock, cut back to their last full line."""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

POLL_S = 0.005
"""Between two looks at a lock; the journal's is held for a line and its fsync."""


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Of all who come here with one lock file, in this process or another, lets in one after the other.

    Raises:
        BlockingIOError: Somebody is in, and `wait` is False.
    """
    try:
        lock = FileLock(path, timeout=-1 if wait else 0, poll_interval=POLL_S).acquire()
    except Timeout:
        raise BlockingIOError(f"{path} is held by another process") from None
    with lock:
        yield


@contextmanager
def exclusive(path: Path) -> Iterator[int]:
    """A file open for reading and appending, for one handle at a time; `<name>.lock` beside it says whose turn it is."""
    with locked(path.with_name(f"{path.name}.lock")):
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            yield file
        finally:
            os.close(file)


def write_atomic(path: Path, text: str) -> None:
    """Writes a small file so that a reader, and a crash, find the old content or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def copy_atomic(source: Path, target: Path) -> str:
    """Copies a file so that a reader finds the old one or the new; returns the sha256 of what was copied."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        with source.open("rb") as reader, temporary.open("wb") as writer:
            shutil.copyfileobj(reader, writer)
            writer.flush()
            os.fsync(writer.fileno())
        with temporary.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(target.parent)
    return digest


def end_of_last_line(file: int, size: int) -> int:
    """The byte after the last newline among the first `size`."""
    end = size
    while end:
        start = max(0, end - 4096)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def sync_directory(folder: Path) -> None:
    """Makes a rename inside `folder` outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
