"""One journal to one MLflow, exactly once.

How far a server has been told is noted beside the journal, after it has been told:

    delivered/<digest of the URI>.json    the run's id and the byte of events.jsonl up to which the server has everything
    delivered/<digest of the URI>.lock    held while delivering, so that two senders in one home take turns

A crash in between makes the next delivery repeat some events. That is harmless: MLflow's key of a metric is (run, name,
timestamp, step, value), timestamps come from the journal, and tags, statuses and files are replaced by themselves.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from piip.durable import locked, write_atomic
from piip.record.events import ARTIFACTS, EVENTS, Event, read_events
from piip.record.runs import RunRecord, read_record
from piip.tracking.writer import METRICS_PER_BATCH, Measurement, RunDeletedError, Writer

logger = logging.getLogger(__name__)

TERMINAL = ("FINISHED", "FAILED", "KILLED", "STOPPED")


@dataclass
class Delivered:
    """What one MLflow has been told of one journal."""

    run_id: str | None = None
    offset: int = 0
    created_ms: int = 0
    """When the journal these are about was begun; one begun anew starts from nothing."""


@dataclass
class _Chunk:
    """Events for one request, and one status or file after it."""

    end: int
    """Byte after the last of them."""
    events: int = 0
    metrics: list[Measurement] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    last: Event | None = None


def deliver(folder: Path, store: Writer, *, heard: Callable[[], None] = lambda: None) -> int:
    """Tells MLflow everything in the journal that it has not been told.

    Also where nothing is new it looks whether the run is still there: a run that this MLflow does not know (an
    `mlflow.db` that was removed, say) is made again from the journal; one that a person deleted is not.

    Args:
        folder: The journal's.
        store: Where to.
        heard: Called whenever MLflow has taken something.

    Returns:
        Number of events delivered.

    Raises:
        UnreachableError: MLflow does not answer. What it was told until then is noted.
        RunDeletedError: The run was deleted in MLflow.
        BlockingIOError: Another sender is delivering this journal.
    """
    with _turn(folder, store) as note:
        record = read_record(folder)
        told = read_delivered(folder, store)
        stage = store.lifecycle(told.run_id) if told.run_id else "missing"
        if told.run_id and stage == "deleted":
            raise RunDeletedError(store.deleted(told.run_id))
        if stage == "missing":
            told = Delivered(_create(folder, record, store), 0, record.created_ms)
            write_atomic(note, json.dumps(asdict(told)))
        sent = 0
        for count in _send_events(folder, record, store, told, note):
            sent += count
            heard()
        return sent


def read_delivered(folder: Path, store: Writer) -> Delivered:
    """What `store` has been told of a journal so far."""
    note = _note(folder, store)
    told = Delivered(**json.loads(note.read_text())) if note.exists() else Delivered()
    return told if told.created_ms == read_record(folder).created_ms else Delivered()


def pending(folder: Path, store: Writer) -> bool:
    """Whether the journal holds something that `store` has not been told; asks no server."""
    told = read_delivered(folder, store)
    return told.run_id is None or told.offset < (folder / EVENTS).stat().st_size


def journals(root: Path) -> list[Path]:
    """The journals under a folder, by name."""
    return sorted(path.parent for path in root.glob("*/run.json"))


def _note(folder: Path, store: Writer) -> Path:
    # a digest, because a URI may hold a password
    return folder / "delivered" / f"{hashlib.sha256(store.uri.encode()).hexdigest()[:12]}.json"


@contextmanager
def _turn(folder: Path, store: Writer) -> Iterator[Path]:
    note = _note(folder, store)
    note.parent.mkdir(exist_ok=True)
    with locked(note.with_suffix(".lock"), patience=0):
        yield note


def _create(folder: Path, record: RunRecord, store: Writer) -> str:
    """The run's id; the sweep it belongs to is created before it, because its id becomes a tag."""
    if record.parent_key is None:
        return store.ensure_run(record)
    parent = folder.parent / record.parent_key
    if not parent.exists():
        raise ValueError(
            f"{record.name} belongs to sweep {record.parent_key}, but there is no {parent}. Put it there too"
        )
    if read_delivered(parent, store).run_id is None:
        deliver(parent, store)
    return store.ensure_run(record, read_delivered(parent, store).run_id)


def _send_events(folder: Path, record: RunRecord, store: Writer, told: Delivered, note: Path) -> Iterator[int]:
    """The number of events of each request, after it."""
    assert told.run_id
    for chunk in _chunks(folder, told.offset):
        store.log_batch(told.run_id, chunk.metrics, chunk.tags)
        if chunk.last:
            _send_one(folder, record, store, told.run_id, chunk.last)
        told.offset = chunk.end
        write_atomic(note, json.dumps(asdict(told)))
        yield chunk.events


def _chunks(folder: Path, offset: int) -> Iterator[_Chunk]:
    """Events in order: when a run shows as finished, what came before must be there."""
    chunk = _Chunk(offset)
    for event, after in read_events(folder, offset):
        chunk.end = after
        chunk.events += 1
        match event["kind"]:
            case "metric":
                ms, step = event["ms"], event["step"]
                chunk.metrics += [(name, float(value), ms, step) for name, value in event["values"].items()]
            case "tag":
                chunk.tags |= event["tags"]
            case _:
                chunk.last = event
        if chunk.last or len(chunk.metrics) >= METRICS_PER_BATCH:
            yield chunk
            chunk = _Chunk(after)
    if chunk.events:
        yield chunk


def _send_one(folder: Path, record: RunRecord, store: Writer, run_id: str, event: Event) -> None:
    if event["kind"] == "status":
        store.set_status(run_id, event["status"], event["ms"])
        if event["status"] in TERMINAL:
            store.drop_twins(record, run_id)
        return
    name = event["name"]
    path = folder / ARTIFACTS / name
    if path.exists():
        store.log_artifact(run_id, path, str(Path(name).parent) if "/" in name else None)
    else:
        logger.warning("%s: artifact %r is recorded, but the file is gone; the run will lack it", folder, name)
