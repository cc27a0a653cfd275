"""The background thread that brings a sweep's journals to MLflow. Nobody who trains ever waits for it.

sender = Sender(["546c935d-1", "sweep-0f12ab3498cd"])
sender.start()          # training goes on, whatever the server does
sender.flush(60)        # at the end: wait, but not for ever; `python -m piip.sync` delivers what is left
sender.stop()
"""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from piip.home import journal_dir
from piip.record.events import EVENTS
from piip.record.runs import read_record
from piip.tracking.connection import UnreachableError
from piip.tracking.delivery import deliver, pending
from piip.tracking.store import Store
from piip.tracking.writer import RunDeletedError

__all__ = ["Sender", "deliver"]

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
"""Time between two looks at the journals; what came in between travels in one request."""
LONGEST_PAUSE_S = 30.0
"""A server that does not answer is asked again after 2, 4, 8, ... and at last every 30 s."""
FLUSH_PAUSE_S = 2.0
"""Or every 2 s while somebody waits in `flush`."""


@dataclass
class _Pass:
    """One look at every journal."""

    complete: bool = True
    """Everything written before it began has been delivered, or never will be (the run was deleted)."""
    hopeless: bool = False
    """Something failed in a way that another try will not mend."""


class Sender:
    """Delivers the journals of some runs, and no others: what cannot be delivered of another sweep is that sweep's matter.

    Args:
        keys: Of their trials, and of the sweep.
        uri: MLflow's tracking URI; default: `MLFLOW_TRACKING_URI`, or `mlflow.db` under `PIIP_HOME`.
    """

    def __init__(self, keys: Iterable[str], uri: str | None = None) -> None:
        self._store = Store(uri)
        self._folders = [journal_dir(key) for key in keys]
        self._thread = threading.Thread(target=self._run, name="piip-sender", daemon=True)
        self._changed = threading.Condition()
        self._wanted = 0
        self._flushing = 0
        self._done = (0, _Pass(complete=False))
        self._heard_at = 0.0
        self._stopping = False
        self._sizes: dict[Path, int] = {}
        self._told: set[str] = set()
        self.problem: str | None = None

    def start(self) -> None:
        """Begins to deliver."""
        self._thread.start()

    def flush(self, timeout: float) -> bool:
        """Waits until everything recorded so far is in MLflow.

        Args:
            timeout: Seconds in which MLflow takes nothing at all, after which nobody waits any longer.

        Returns:
            Whether it is; False after the timeout, or as soon as it is clear that it will not be.
        """
        began = time.monotonic()
        with self._changed:
            self._wanted += 1
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._wait_for_pass(self._wanted, began, timeout)
            finally:
                self._flushing -= 1

    def stop(self, timeout: float = 5) -> None:
        """Ends the thread. A request under way is left to itself after `timeout` seconds; the journals keep the rest."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout)

    def _wait_for_pass(self, wanted: int, began: float, timeout: float) -> bool:
        while self._thread.is_alive() and (left := max(began, self._heard_at) + timeout - time.monotonic()) > 0:
            number, result = self._done
            if number >= wanted and (result.complete or result.hopeless):
                return result.complete
            self._changed.wait(left)
        return False

    def _run(self) -> None:
        pause = PERIOD_S
        while not self._stopping:
            wanted = self._wanted
            result = self._deliver_all()
            pause = min(LONGEST_PAUSE_S, pause * 2) if self.problem else PERIOD_S
            with self._changed:
                self._done = (wanted, result)
                self._changed.notify_all()
                if not self._stopping and self._wanted == wanted:
                    self._changed.wait(min(pause, FLUSH_PAUSE_S) if self._flushing else pause)

    def _deliver_all(self) -> _Pass:
        result = _Pass()
        for folder in self._folders:
            if self._stopping:
                return _Pass(complete=False)
            try:
                self._deliver_new(folder)
            except BlockingIOError:
                result.complete = False
            except UnreachableError as error:
                self._server_is_down(error)
                return _Pass(complete=False)
            except Exception as error:  # the thread must outlive one bad journal; the others go on
                result.complete, result.hopeless = False, True
                self._say(f"{folder}: not delivered: {type(error).__name__}: {error}")
        if self.problem:
            logger.warning("MLflow answers again; everything recorded has been delivered")
            self.problem = None
        return result

    def _deliver_new(self, folder: Path) -> None:
        if not (folder / "run.json").exists():
            return  # yet to come
        size = (folder / EVENTS).stat().st_size  # before delivering: what is written meanwhile is for the next look
        if self._sizes.get(folder) == size:
            return
        try:
            # the first time also where nothing is new: somebody may have deleted the run, or lost the database
            if folder not in self._sizes or pending(folder, self._store):
                deliver(folder, self._store, heard=self._heard)
        except RunDeletedError as error:
            self._say(f"{read_record(folder).name} is skipped: {error}")
        self._sizes[folder] = size

    def _heard(self) -> None:
        self._heard_at = time.monotonic()

    def _server_is_down(self, error: UnreachableError) -> None:
        if not self.problem:
            logger.warning("%s Training goes on; trying again.", error)
        self.problem = str(error)

    def _say(self, line: str) -> None:
        """Logs a line once, not every second."""
        if line not in self._told:
            self._told.add(line)
            logger.warning(line)
