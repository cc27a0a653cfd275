"""What happened in a trial, on local disk first: an append-only file that tracking delivers to MLflow later.

One folder per trial, `home()/journals/<trial_key>/`:

    run.json       who the trial is: a RunRecord, written once
    events.jsonl   what happened, one JSON line per event, written in one piece and fsynced before the caller goes on
    events.jsonl.lock   held while a line is written
    attempt        which attempt may write; opening the journal takes it over, and the attempt before is fenced off
    artifacts/     files to be kept with the run
    doing          what the trial is at between its steps, in words, for who watches; no part of the record
    delivered/     how far each tracking server has been told (piip/tracking/sender.py)

An event's time is taken once, here, and sent as it stands: MLflow then knows a repeated delivery for what it is.
"""

import errno
import json
import logging
import operator
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from piip.durable import copy_atomic, end_of_last_line, exclusive, write_atomic
from piip.record.events import ARTIFACTS, DOING, EVENTS, Event, Seen, Status, read_events
from piip.record.runs import check_name, now_ms, read_record

logger = logging.getLogger(__name__)


class Fenced(RuntimeError):  # noqa: N818 - it reads as what happened to the writer
    """This attempt may write no more: a newer one has opened the journal."""


class Journal:
    """The writing end of one trial's journal. Opening it fences every attempt that opened it before, but not as a guest.

    Several handles of one attempt may write at once, from any thread or process: each append holds a lock on the file
    and first reads what others appended. Opening records the status RUNNING unless the trial is FINISHED.

    Args:
        folder: What `create_run` returned.
        attempt: Names this start of the trial; every start needs its own (a uuid, say), handles of one start share it.
        running: False for a guest, who only adds to the record, whoever trains: the status stays, nobody is fenced.
    """

    def __init__(self, folder: Path, attempt: str, *, running: bool = True) -> None:
        self.folder = Path(folder)
        self.record = read_record(self.folder)
        self.attempt = attempt
        self._seen = Seen()
        self._offset = 0
        with exclusive(self.folder / EVENTS) as file:
            self._generation = _take_over(self.folder, attempt) if running else None
            self._catch_up(file)
            if running and self._seen.status not in ("RUNNING", "FINISHED"):
                self._append(file, {"kind": "status", "status": "RUNNING", "attempt": attempt})

    @property
    def status(self) -> Status | Literal["PENDING"]:
        """The trial's status as far as this handle has read."""
        return self._seen.status

    def history(self, name: str) -> list[tuple[int, float]]:
        """The (step, value) of one metric so far, all attempts together."""
        return [(step, value) for step, (value, _) in self._seen.metrics.get(name, {}).items()]

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records metrics at an optimizer step; what an earlier attempt recorded at that step stays as it is.

        A nan or inf is recorded as such: MLflow keeps nan, and writes inf as the largest float.
        """
        step = operator.index(step)
        values = {name: float(value) for name, value in metrics.items()}
        for name in values:
            check_name("metric", name)
        with self._writing() as file:
            fresh = {name: _json_number(value) for name, value in values.items() if not self._recorded(name, step)}
            if fresh:
                self._append(file, {"kind": "metric", "step": step, "values": fresh})

    def tag(self, tags: Mapping[str, str]) -> None:
        """Sets tags of the run; a later value replaces an earlier one."""
        for name in tags:
            check_name("tag", name)
        with self._writing() as file:
            changed = {name: str(value) for name, value in tags.items() if self._seen.tags.get(name) != str(value)}
            if changed:
                self._append(file, {"kind": "tag", "tags": changed})

    def artifact(self, local_path: Path, name: str | None = None) -> None:
        """Keeps a copy of a file with the run; the same name again replaces it.

        Args:
            local_path: The file.
            name: Where it goes among the run's artifacts, e.g. `predictions/val.parquet`; default: the file's name.
        """
        name = name or Path(local_path).name
        check_name("artifact", name)
        with self._writing() as file:
            kept = self.folder / ARTIFACTS / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            digest = copy_atomic(Path(local_path), kept)
            if self._seen.artifacts.get(name) != digest:
                self._append(file, {"kind": "artifact", "name": name, "sha256": digest})

    def doing(self, what: str) -> None:
        """Tells who watches what takes the time before the next step; delivered nowhere."""
        write_atomic(self.folder / DOING, what)

    def finish(self, status: Status) -> None:
        """Records how the trial ended. All but FINISHED go back to RUNNING when a later attempt opens the journal."""
        if status not in get_args(Status):
            raise ValueError(f"status {status!r} is none of {', '.join(get_args(Status))}")
        with self._writing() as file:
            if self._seen.status != status:
                self._append(file, {"kind": "status", "status": status, "attempt": self.attempt})

    def _recorded(self, name: str, step: int) -> bool:
        return step in self._seen.metrics.get(name, {})

    @contextmanager
    def _writing(self) -> Iterator[int]:
        with exclusive(self.folder / EVENTS) as file:
            owner = _read_attempt(self.folder)
            if self._generation not in (None, owner["generation"]):
                raise Fenced(f"attempt {self.attempt!r} must stop: {owner['attempt']!r} took over {self.folder}")
            self._catch_up(file)
            yield file

    def _catch_up(self, file: int) -> None:
        """Reads what is new and cuts the torn last line of a killed writer (under the lock nobody is mid-write)."""
        size = os.fstat(file).st_size
        if size == self._offset:
            return
        for event, after in read_events(self.folder, self._offset):
            self._seen.add(event)
            self._offset = after
        self._offset = end_of_last_line(file, size)
        if self._offset < size:
            logger.warning("%s: cut %d bytes of an unfinished last line", self.folder / EVENTS, size - self._offset)
            os.ftruncate(file, self._offset)

    def _append(self, file: int, event: Event) -> None:
        event = {"ms": now_ms(), **event}
        line = json.dumps(event, allow_nan=False).encode() + b"\n"
        try:
            if os.write(file, line) < len(line):
                raise OSError(errno.ENOSPC, "disk full: part of a line was written", str(self.folder / EVENTS))
        except OSError:
            os.ftruncate(file, self._offset)
            raise
        # From here on a reader may have seen the line, so a failing fsync raises but does not take it back.
        os.fsync(file)
        self._seen.add(event)
        self._offset += len(line)


def _take_over(folder: Path, attempt: str) -> int:
    """Makes `attempt` the one that may write; returns its generation, one more than the attempt's before."""
    owner = _read_attempt(folder)
    if owner["attempt"] != attempt:
        owner = {"attempt": attempt, "generation": owner["generation"] + 1}
        write_atomic(folder / "attempt", json.dumps(owner))
    return owner["generation"]


def _read_attempt(folder: Path) -> dict[str, Any]:
    path = folder / "attempt"
    return json.loads(path.read_text()) if path.exists() else {"attempt": None, "generation": 0}


def _json_number(value: float) -> float | str:
    """JSON has no nan and no inf; `float` reads these words back."""
    return value if value - value == 0 else str(value)
