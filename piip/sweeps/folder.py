"""The folder of a Ray of our own: short enough for its sockets, apart from what other clusters left, and gone when Ray is.

Ray keeps sockets and logs under RAY_TMPDIR, else TMPDIR, else /tmp, and looks there for `ray_current_cluster`, the address of a cluster
that somebody started. Where that one was killed, the file stays, and every trial would wait 12 s for it at its end.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from piip.scratch import RANDOM, make

log = logging.getLogger(__name__)

VARIABLE, PREFIX = "RAY_TMPDIR", "piip"
SOCKET = "/ray/session_2026-11-30_15-47-55_123456_1234567/sockets/plasma_store.12"
"""The longest socket's path below it."""
LONGEST = 107 - len(SOCKET) - len(f"/{PREFIX}") - RANDOM
"""Bytes of the folder that ours is in: 107 is the most that a socket's path may have."""


@dataclass
class Folder:
    """Where Ray's files are."""

    path: Path
    keep_logs_at: Path | None = None
    """Where Ray's logs go when Ray is down; None: with the rest."""

    @property
    def logs(self) -> Path:
        """What Ray's processes, the workers among them, wrote."""
        return self.path / "ray" / "session_latest" / "logs"


@contextmanager
def own_folder() -> Iterator[Folder]:
    """A folder for the Ray that is started in here; RAY_TMPDIR names it. Folders of ours whose process has died are removed."""
    base = place()
    path, lock = make(base, PREFIX)
    folder = Folder(path)
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(folder.path)
    try:
        yield folder
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before
        if folder.keep_logs_at:
            _keep(folder.logs.resolve(), folder.keep_logs_at)
        shutil.rmtree(folder.path, ignore_errors=True)  # Ray's last processes may be writing yet
        lock.release()


def _keep(logs: Path, place: Path) -> None:
    """Copies what can be copied; what became of the trials does not depend on it."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(logs, place, ignore_dangling_symlinks=True)
    except OSError as error:
        log.warning("Ray's logs are not kept: %s", error)


def place() -> Path:
    """The folder for temporary files that ours is made in: $RAY_TMPDIR or $TMPDIR, where sockets below it may be, else /tmp.

    Raises:
        ValueError: There is none.
    """
    given, usual = os.environ.get(VARIABLE), tempfile.gettempdir()
    if given and _length(given) > LONGEST:
        raise ValueError(
            f"{VARIABLE}={given} has {_length(given)} bytes; a path of a socket below it would be too long. "
            f"At most {LONGEST} fit: export {VARIABLE}=/tmp"
        )
    if given or _length(usual) <= LONGEST:
        return Path(given or usual)
    if not os.access("/tmp", os.W_OK | os.X_OK):
        raise ValueError(
            f"TMPDIR={usual} has {_length(usual)} bytes; a path of a socket below it would be too long, and /tmp cannot be written. "
            f"Set {VARIABLE} to a folder of at most {LONGEST} bytes"
        )
    log.warning("TMPDIR=%s is too long for Ray's sockets: Ray's own files go to /tmp", usual)
    return Path("/tmp")


def _length(path: str) -> int:
    return len(os.fsencode(path))
