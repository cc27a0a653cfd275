"""Runs out of MLflow, for `piip.eval`, `piip.report` and people; `Store` is what everybody else knows of it.

MLflow is a view; what was measured is in the journals (piip/record/journal.py). Only `MlflowClient` with an explicit
run id is used: the fluent API keeps a global "active run", which trials running side by side would mix up.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from piip.home import home, journal_dir, tracking_uri
from piip.record.events import ARTIFACTS
from piip.record.runs import check_name, now_ms, read_record
from piip.spec import ExperimentSpec
from piip.tracking.connection import RefusedError
from piip.tracking.delivery import journals, read_delivered
from piip.tracking.writer import KEY, STATUS_TAG, Measurement, RunDeletedError, Writer

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_SPEC = "spec.json"
_SHORT_ID = re.compile(r"[0-9a-f]{6,31}")
PAGE = 1000
"""Runs per request."""


@dataclass
class RunInfo:
    """One run as MLflow has it."""

    run_id: str
    name: str
    experiment: str
    status: str
    """RUNNING, FINISHED, FAILED, KILLED, STOPPED (by the scheduler) or PENDING."""
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    """The last value of each metric."""
    start_ms: int


class Store(Writer):
    """The runs of one MLflow tracking server or SQLite file.

    Args:
        uri: MLflow's tracking URI; default: `MLFLOW_TRACKING_URI`, or `mlflow.db` under `PIIP_HOME`.
    """

    def __init__(self, uri: str | None = None) -> None:
        super().__init__(uri or tracking_uri())

    def find_runs(self, experiment: str) -> list[RunInfo]:
        """All runs of an experiment that are not deleted, sweeps (parents) included, newest first.

        Raises:
            ValueError: There is none of that name (the message lists those there are), or it was deleted.
        """
        with self._talking() as client:
            return [_info(run, experiment) for run in self._all(client, self._id_of(client, experiment), deleted=False)]

    def find_deleted(self, experiment: str) -> list[RunInfo]:
        """Those that somebody deleted."""
        with self._talking() as client:
            return [_info(run, experiment) for run in self._all(client, self._id_of(client, experiment), deleted=True)]

    def experiment_id(self, experiment: str) -> str:
        """MLflow's number for an experiment that exists, as its pages' addresses have it."""
        with self._talking() as client:
            return self._id_of(client, experiment)

    def _id_of(self, client: "MlflowClient", experiment: str) -> str:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            names = sorted(e.name for e in client.search_experiments() if e.name != "Default")
            known = f"{self._renamed(experiment)}There are: {', '.join(names) or 'none yet'}"
            raise ValueError(f"no experiment {experiment!r} at {self.where}. {known}")
        if found.lifecycle_stage != "active":
            raise self.experiment_deleted(experiment, found.experiment_id)
        return found.experiment_id

    def _renamed(self, experiment: str) -> str:
        """What runs that this home delivered to an experiment say it is called now; empty where there are none."""
        for folder in journals(home() / "journals"):
            run_id = read_delivered(folder, self).run_id
            if run_id and read_record(folder).experiment == experiment and self.lifecycle(run_id) == "active":
                return f"Its runs are in {self.get_run(run_id).experiment!r} now: it was renamed in MLflow. "
        return ""

    def _all(self, client: "MlflowClient", experiment_id: str, *, deleted: bool) -> "list[Run]":
        from mlflow.entities import ViewType

        runs: list[Run] = []
        token = None
        while token != "":
            page = client.search_runs(
                [experiment_id],
                run_view_type=ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY,
                max_results=PAGE,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            runs += page
            token = page.token or ""
        return runs

    def get_run(self, run_id: str) -> RunInfo:
        """One run by its whole id.

        Raises:
            ValueError: There is none of that id (the message lists the latest five trials), or it was deleted.
        """
        try:
            with self._talking() as client:
                run = client.get_run(run_id)
                if run.info.lifecycle_stage != "active":
                    raise RunDeletedError(self.deleted(run_id))
                return _info(run, client.get_experiment(run.info.experiment_id).name)
        except RefusedError:
            raise ValueError(f"no run {run_id!r} at {self.where}. {self._latest()}") from None

    def active(self, run_id: str) -> RunInfo | None:
        """One run by its whole id; None where it was deleted, or this MLflow never had it."""
        return self.get_run(run_id) if self.lifecycle(run_id) == "active" else None

    def find_run(self, given: str) -> RunInfo:
        """One run as people name it: its id, or as much of the beginning (six characters at least) as no other run has.

        Raises:
            ValueError: No run begins so, or several do (they are listed).
        """
        if len(given) < 6:
            raise ValueError(
                f"{given!r} is too short for a run id: give at least 6 of its characters. {self._latest()}"
            )
        found = self._search(f"attributes.run_id LIKE '{given}%'") if _SHORT_ID.fullmatch(given) else []
        if len(found) > 1:
            raise ValueError(
                f"{len(found)} runs at {self.where} begin with {given!r}: {', '.join(_short(r, 16) for r in found)}"
            )
        return self.get_run(found[0].info.run_id if found else given)

    def _latest(self) -> str:
        """The end of an error message: the trials somebody may have meant; neither sweeps nor what never started."""
        begun = [r for r in self._search() if r.data.tags.get("piip.kind") != "sweep" and r.info.status != "SCHEDULED"]
        return f"Latest: {', '.join(map(_short, begun[:5]))}" if begun else "It has no runs yet."

    def _search(self, wanted: str = "") -> "list[Run]":
        """The newest runs of all experiments, 100 at most."""
        with self._talking() as client:
            experiments = [e.experiment_id for e in client.search_experiments()]
            return client.search_runs(experiments, wanted, order_by=["attributes.start_time DESC"], max_results=100)

    def load_spec(self, run_id: str) -> ExperimentSpec:
        """The spec a run was made from, exactly: params are strings and cut, the artifact `spec.json` is not."""
        try:
            return ExperimentSpec.from_json(self.download(run_id, _SPEC).read_text())
        except FileNotFoundError:
            run = self.get_run(run_id)
            kept = journal_dir(run.tags[KEY]) / ARTIFACTS / _SPEC if KEY in run.tags else None
            if kept and kept.is_file():  # the journal's own copy, where MLflow's is lost
                return ExperimentSpec.from_json(kept.read_text())
            raise ValueError(
                f"run {run_id} ({run.name}) has no {_SPEC}: a sweep's parent run, or one not made by piip. Take a trial"
            ) from None

    def history(self, run_id: str, name: str) -> list[tuple[int, float, int]]:
        """One metric's (step, value, timestamp in ms) by step; empty where the run never logged it."""
        try:
            with self._talking() as client:
                points = client.get_metric_history(run_id, name)
        except RefusedError:
            points = []
        if not points:
            self.get_run(run_id)  # an unknown run has no history either; it is to be said
        return sorted((p.step, p.value, p.timestamp) for p in points)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        """Adds metrics to a run; one the run already has at this step keeps its value, so a verb may be run again."""
        fresh: list[Measurement] = []
        for name, value in metrics.items():
            check_name("metric", name)
            if step not in {known for known, _, _ in self.history(run_id, name)}:
                fresh.append((name, float(value), now_ms(), step))
        self.log_batch(run_id, fresh, {})

    def download(self, run_id: str, artifact: str) -> Path:
        """Fetches an artifact, a file or a folder, under `home()/downloads/<run_id>/` and returns where it is.

        Raises:
            FileNotFoundError: The run has no such artifact.
        """
        self.get_run(run_id)
        folder = str(Path(artifact).parent)
        target = home() / "downloads" / run_id / folder  # MLflow drops the folder
        target.mkdir(parents=True, exist_ok=True)
        with self._talking() as client:
            if artifact not in {a.path for a in client.list_artifacts(run_id, None if folder == "." else folder)}:
                raise FileNotFoundError(f"run {run_id} has no artifact {artifact!r}")
            return Path(client.download_artifacts(run_id, artifact, str(target)))


def age(ms: int) -> str:
    """A duration as people say it: `40 s`, `12 min`, `3 h`, `5 d`."""
    seconds = ms // 1000
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _short(run: "Run", length: int = 8) -> str:
    """`546c935d (mask_rcnn_..., 2 h ago)`."""
    return f"{run.info.run_id[:length]} ({run.info.run_name}, {age(now_ms() - run.info.start_time)} ago)"


def _info(run: "Run", experiment: str) -> RunInfo:
    tags = run.data.tags
    return RunInfo(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        experiment=experiment,
        status=tags.get(STATUS_TAG, "PENDING" if run.info.status == "SCHEDULED" else run.info.status),
        params=run.data.params,
        tags=tags,
        metrics=run.data.metrics,
        start_ms=run.info.start_time,
    )
