"""A run as its journal has it, in the form that MLflow gives it back: whole, whatever MLflow has of it."""

from pathlib import Path

from piip.record.events import read_metrics, read_status, read_tags
from piip.record.runs import read_record
from piip.tracking.delivery import read_delivered
from piip.tracking.store import RunInfo, Store
from piip.tracking.writer import KEY, PARENT


def run_of(folder: Path, store: Store) -> RunInfo:
    """A trial, or a sweep. Asks no server.

    Args:
        folder: Its journal's.
        store: Whose ids of runs are meant. A run that it was not told of goes by its trial key.
    """
    record = read_record(folder)
    parent = folder.parent / record.parent_key if record.parent_key else None
    known = read_delivered(parent, store).run_id if parent and (parent / "run.json").exists() else None
    return RunInfo(
        run_id=read_delivered(folder, store).run_id or record.trial_key,
        name=record.name,
        experiment=record.experiment,
        status=read_status(folder),
        params=record.params,
        tags=record.tags
        | {KEY: record.trial_key}
        | read_tags(folder)
        | ({PARENT: known or parent.name} if parent else {}),
        metrics={name: history[-1][1] for name, history in read_metrics(folder).items() if history},
        start_ms=record.created_ms,
    )
