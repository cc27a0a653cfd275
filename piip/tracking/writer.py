"""Runs into MLflow: what the sender does. Every call may be repeated after a crash without doubling anything."""

import logging
import shlex
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from piip.home import home
from piip.record.runs import RunRecord
from piip.tracking import address, moved
from piip.tracking.connection import Connection, RefusedError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

# mlflow.utils.validation: entities per request, characters per value
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100
TAGS_PER_BATCH = 100
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
_CUT = "... [cut; see spec.json]"

PARENT = "mlflow.parentRunId"
KEY = "piip.trial_key"
STATUS_TAG = "piip.status"
# MLflow has no word for a trial that its scheduler stopped early; the tag `piip.status` has.
_MLFLOW_STATUS = {"PENDING": "SCHEDULED", "STOPPED": "FINISHED"}

Measurement = tuple[str, float, int, int]
"""Name, value, timestamp in ms, step."""


class RunDeletedError(ValueError):
    """The run was deleted in MLflow by a person; it is left so."""


class Writer(Connection):
    """The writing half of `Store`."""

    def ensure_run(self, record: RunRecord, parent_run_id: str | None = None) -> str:
        """The run of `record`, created if MLflow does not have it yet, with its params.

        A run is known by its trial key and the time its journal was begun, so that a crash between creating it and
        noting its id does not make two.

        Raises:
            RunDeletedError: It was there, and somebody deleted it.
        """
        with self._talking() as client:
            runs = self._runs_of(client, record)
            alive = [run for run in runs if run.info.lifecycle_stage == "active"]
            if runs and not alive:
                raise RunDeletedError(self.deleted(runs[0].info.run_id))
            if alive:
                run_id = alive[0].info.run_id
            else:
                experiment_id = self._experiment(client, record.experiment, parent_run_id)
                tags = {k: cut(v, TAG_LENGTH) for k, v in record.tags.items()} | {KEY: record.trial_key}
                if parent_run_id:
                    tags[PARENT] = parent_run_id
                run = client.create_run(experiment_id, record.created_ms, tags, record.name)
                run_id = run.info.run_id
                client.update_run(run_id, status=_MLFLOW_STATUS["PENDING"])
            self._log_params(client, run_id, record.params)
            return run_id

    def drop_twins(self, record: RunRecord, run_id: str) -> None:
        """Deletes other runs of `record`: a `create_run` that timed out may still have been carried out, later."""
        with self._talking() as client:
            for run in self._runs_of(client, record):
                if run.info.run_id != run_id and run.info.lifecycle_stage == "active":
                    logger.warning("deleting run %s, created twice by a request that timed out", run.info.run_id)
                    client.delete_run(run.info.run_id)

    def lifecycle(self, run_id: str) -> str:
        """`active`, `deleted` (by a person, can be restored) or `missing` (this MLflow never had it, or lost it)."""
        try:
            with self._talking() as client:
                return client.get_run(run_id).info.lifecycle_stage
        except RefusedError as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return "missing"

    def log_batch(self, run_id: str, metrics: Sequence[Measurement], tags: Mapping[str, str]) -> None:
        """Metrics and tags of any number. A metric sent again with the same timestamp is stored once."""
        from mlflow.entities import Metric, RunTag

        with self._talking() as client:
            for start in range(0, len(metrics), METRICS_PER_BATCH):
                batch = [Metric(*measurement) for measurement in metrics[start : start + METRICS_PER_BATCH]]
                client.log_batch(run_id, metrics=batch)
            items = [RunTag(name, cut(value, TAG_LENGTH)) for name, value in tags.items()]
            for start in range(0, len(items), TAGS_PER_BATCH):
                client.log_batch(run_id, tags=items[start : start + TAGS_PER_BATCH])

    def log_artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Uploads one file into `folder` of the run's artifacts."""
        with self._talking() as client:
            client.log_artifact(run_id, str(path), folder)

    def set_status(self, run_id: str, status: str, ms: int) -> None:
        """The journal's status as MLflow's, and in its own words as the tag `piip.status`."""
        mlflow_status = _MLFLOW_STATUS.get(status, status)
        with self._talking() as client:
            client.set_tag(run_id, STATUS_TAG, status)
            if mlflow_status in ("RUNNING", "SCHEDULED"):
                client.update_run(run_id, status=mlflow_status)
            else:
                client.set_terminated(run_id, mlflow_status, end_time=ms)

    def deleted(self, run_id: str) -> str:
        """What to say of a run that somebody deleted, or whose experiment: what brings it back."""
        with self._talking() as client:
            run = client.get_run(run_id)
            experiment = client.get_experiment(run.info.experiment_id)
        if experiment.lifecycle_stage != "active":
            return (
                f"run {run_id} was deleted in MLflow, with its experiment {experiment.name!r}. "
                f"{self._restore(experiment.experiment_id)}"
            )
        return (
            f"run {run_id} was deleted in MLflow. Bring it back with `{self._command} runs restore --run-id {run_id}`"
        )

    def experiment_deleted(self, name: str, experiment_id: str) -> RunDeletedError:
        """What to raise of an experiment that somebody deleted."""
        return RunDeletedError(
            f"experiment {name!r} was deleted in MLflow. {self._restore(experiment_id)}, or use another name"
        )

    def _restore(self, experiment_id: str) -> str:
        return f"Bring it back with `{self._command} experiments restore -x {experiment_id}`"

    @property
    def _command(self) -> str:
        return f"MLFLOW_TRACKING_URI={shlex.quote(self.where)} mlflow"

    def _experiment(self, client: "MlflowClient", name: str, parent_run_id: str | None) -> str:
        """The id of the experiment that a new run goes to: its sweep's, whatever that is called by now; created when new."""
        if parent_run_id and self.lifecycle(parent_run_id) == "active":
            return client.get_run(parent_run_id).info.experiment_id
        found = client.get_experiment_by_name(name)
        if found is None:
            # With SQLite there is no server to keep files; MLflow's default is a folder wherever one happens to stand.
            folder = home() / moved.FILES / urllib.parse.quote(name, safe=" ")
            location = folder.as_uri() if address.sqlite_file(self.uri) else None
            try:
                with self._talking():
                    client.create_experiment(name, artifact_location=location)
            except RefusedError as error:
                if error.code != "RESOURCE_ALREADY_EXISTS":  # another sender was faster
                    raise
            found = client.get_experiment_by_name(name)
            assert found is not None
        if found.lifecycle_stage != "active":
            raise self.experiment_deleted(name, found.experiment_id)
        return found.experiment_id

    def _runs_of(self, client: "MlflowClient", record: RunRecord) -> "list[Run]":
        """The runs of a record, deleted ones too, in whatever experiment: somebody may have renamed or deleted theirs."""
        from mlflow.entities import ViewType

        everywhere = [e.experiment_id for e in client.search_experiments(view_type=ViewType.ALL)]
        query = f"tags.`{KEY}` = '{record.trial_key}' AND attributes.start_time = {record.created_ms}"
        runs = client.search_runs(everywhere, query, run_view_type=ViewType.ALL)
        return sorted(runs, key=lambda run: run.info.run_id)

    def _log_params(self, client: "MlflowClient", run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        items = [Param(name, cut(value, PARAM_LENGTH)) for name, value in params.items()]
        for start in range(0, len(items), PARAMS_PER_BATCH):
            client.log_batch(run_id, params=items[start : start + PARAMS_PER_BATCH])


def cut(text: str, length: int) -> str:
    """MLflow would cut a long value without a mark; this one shows where it was cut."""
    return text if len(text) <= length else text[: length - len(_CUT)] + _CUT
