"""Files that a crash leaves whole: written atomically, appended under a lock, cut back to their last full line."""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

POLL_S, SLOW_POLL_S = 0.005, 0.5
"""Between two looks at a lock (the journal's is held for a line and its fsync), and at one that is held long."""
LONG_S = 30.0
"""Longer than anybody holds a lock who is alive and does not drive a trial."""


@contextmanager
def locked(path: Path, *, patience: float | None = None) -> Iterator[None]:
    """Lets in one after the other of all who come with the same lock file, from this process or another.

    Args:
        path: The lock file; the kernel lets go of it when its holder dies.
        patience: Seconds to wait for who is in; None: as long as it takes, and who waits long is told for what.

    Raises:
        BlockingIOError: Somebody is in, longer than `patience`.
    """
    lock = FileLock(path, poll_interval=POLL_S)
    try:
        lock.acquire(timeout=LONG_S if patience is None else patience)
    except Timeout:
        if patience is not None:
            raise BlockingIOError(f"{path} is held by another process") from None
        logger.warning("waiting for another process that holds %s", path)
        lock.acquire(timeout=-1, poll_interval=SLOW_POLL_S)
    try:
        yield
    finally:
        lock.release()


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
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:  # a full disk leaves no half behind
        temporary.unlink(missing_ok=True)
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
