"""One driver a trial: whoever trains it holds a lock as long as it lives, and says who it is.

    driver.lock    held by the process that drives the trial; the kernel lets go of it when the process dies, however it dies
    driver.json    who that is

Two commands that want one trial (the same one in two terminals, on two hosts over a shared home) thus take turns. Fencing
(piip/record/journal.py) is for what outlives its driver: a worker whose driver was killed.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from piip.durable import locked, write_atomic

LOCK, WHO = "driver.lock", "driver.json"
PATIENCE_S = 30.0
"""How long a driver that was told to end may hold its lock yet."""


@dataclass(frozen=True)
class Driver:
    """Who trains a trial."""

    command: str
    """The name of the sweep's call that drives it; every call has its own."""
    host: str
    pid: int
    since: str
    """Local time of the host, e.g. `2026-11-30 15:47`."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@contextmanager
def driving(folder: Path, command: str, *, patience: float | None = None) -> Iterator[None]:
    """The caller drives the trial of a journal's folder: alone, as long as it is in here. Waits for who does it now.

    Args:
        folder: The journal's.
        command: The caller's, for `who_drives`.
        patience: Seconds to wait; None: until the other is done, or dead.

    Raises:
        BlockingIOError: Somebody else drives it, and went on longer than `patience`.
    """
    with locked(folder / LOCK, patience=patience):
        me = Driver(command, socket.gethostname(), os.getpid(), time.strftime("%Y-%m-%d %H:%M"))
        write_atomic(folder / WHO, json.dumps(asdict(me)))
        try:
            yield
        finally:
            (folder / WHO).unlink(missing_ok=True)


def who_drives(folder: Path) -> Driver | None:
    """Who drives a trial just now; None: nobody (what a dead one left behind does not count)."""
    try:
        said = json.loads((folder / WHO).read_text())
    except FileNotFoundError:
        return None
    try:
        with locked(folder / LOCK, patience=0):
            return None
    except BlockingIOError:
        return Driver(**said)
