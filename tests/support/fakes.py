"""An MLflow in memory that dies when told to, keyed as MLflow keys."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from piip.record.runs import RunRecord
from piip.tracking.connection import UnreachableError
from piip.tracking.writer import Measurement, Writer


class FakeMLflow(Writer):
    """What the server holds, and which of its coming requests fail: before or after they take effect.

    Args:
        faults: One per request: None, "before" or "after".
    """

    def __init__(self, faults: Iterable[str | None] = ()) -> None:
        super().__init__("fake://mlflow")
        self.faults = iter(faults)
        self.runs: dict[str, tuple[str, int]] = {}
        self.parents: dict[str, str | None] = {}
        self.rows: set[tuple[str, str, float, int, int]] = set()
        self.tags: dict[str, dict[str, str]] = {}
        self.statuses: dict[str, list[str]] = {}
        self.files: dict[str, set[str]] = {}

    def ensure_run(self, record: RunRecord, parent_run_id: str | None = None) -> str:
        self._fault("before")
        known = {identity: run_id for run_id, identity in self.runs.items()}
        identity = (record.trial_key, record.created_ms)
        run_id = known.get(identity) or f"run{len(self.runs)}"
        self.runs[run_id] = identity
        self.parents[run_id] = parent_run_id
        self._fault("after")
        return run_id

    def lifecycle(self, run_id: str) -> str:
        self._fault("before")
        return "active" if run_id in self.runs else "missing"

    def log_batch(self, run_id: str, metrics: Sequence[Measurement], tags: Mapping[str, str]) -> None:
        self._fault("before")
        self.rows |= {(run_id, *measurement) for measurement in metrics}
        self.tags.setdefault(run_id, {}).update(tags)
        self._fault("after")

    def log_artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        self._fault("before")
        self.files.setdefault(run_id, set()).add(f"{folder}/{path.name}" if folder else path.name)
        self._fault("after")

    def set_status(self, run_id: str, status: str, ms: int) -> None:
        self._fault("before")
        self.statuses.setdefault(run_id, []).append(status)
        self._fault("after")

    def drop_twins(self, record: RunRecord, run_id: str) -> None:
        self._fault("before")

    def _fault(self, when: str) -> None:
        if when == "before":
            self._next = next(self.faults, None)
        if self._next == when:
            raise UnreachableError(f"fault {when}")
