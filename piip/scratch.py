"""Folders for what is being made, beside where it will be: gone when it is done, and when its process has died, with the next one.

<folder>/<prefix>XXXXXXXX/owner.lock   held by the process that works there; the kernel lets go of it when that dies, however it dies
"""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = "owner.lock"
UNFINISHED = "new_"
RANDOM = 8
"""Characters that tempfile adds to a name."""


@contextmanager
def scratch(folder: Path, prefix: str) -> Iterator[Path]:
    """A folder of one's own in `folder`. What dead processes left there under the same prefix is removed first.

    Args:
        folder: Is there.
        prefix: Of its name.
    """
    own, lock = make(folder, prefix)
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)  # others may be writing in there yet
        lock.release()


def make(folder: Path, prefix: str) -> tuple[Path, FileLock]:
    """A new folder whose lock this process holds, for who calls to let go of; those of dead processes are removed first."""
    sweep_up(folder, prefix)
    made = Path(tempfile.mkdtemp(prefix=f"{prefix}{UNFINISHED}", dir=folder))
    lock = FileLock(made / LOCK)
    lock.acquire()
    # under this name from here on, so that nobody finds it without its lock held
    return made.rename(folder / made.name.replace(f"{prefix}{UNFINISHED}", prefix, 1)), lock


def sweep_up(folder: Path, prefix: str) -> None:
    """Removes what a killed process left in a folder: of this user, made by `scratch` or named like it, whose lock nobody holds."""
    for left in folder.glob(f"{glob.escape(prefix)}{'?' * RANDOM}/{LOCK}"):
        try:
            if left.stat().st_uid == os.getuid():
                with FileLock(left, timeout=0):
                    shutil.rmtree(left.parent, ignore_errors=True)
        except (Timeout, FileNotFoundError):
            continue  # its process lives, or another one removes it
