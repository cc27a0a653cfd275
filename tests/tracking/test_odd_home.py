"""A home whose path has what URIs have uses for: MLflow's own pages show what is in it."""

import json
import shutil
from pathlib import Path

import pytest
from journals import begin

from piip import home
from piip.record.journal import Journal
from piip.tracking.delivery import deliver
from piip.tracking.store import Store


@pytest.fixture(params=["job%2Fx", "50% of what?", "a=b#c&d;e", "größe 象"])
def odd_home(request, tmp_path, monkeypatch, empty_database) -> Path:
    place = tmp_path / request.param
    place.mkdir()
    shutil.copy(empty_database, place / "mlflow.db")
    monkeypatch.setenv("PIIP_HOME", str(place))
    return place


@pytest.fixture
def pages(odd_home, monkeypatch):
    """A client of what `mlflow ui --backend-store-uri` serves, given the URI that a sweep prints."""
    from mlflow import server
    from mlflow.server import handlers

    monkeypatch.setenv(server.BACKEND_STORE_URI_ENV_VAR, home.tracking_uri())
    monkeypatch.setenv(server.ARTIFACT_ROOT_ENV_VAR, "mlflow-artifacts:/")
    monkeypatch.setattr(handlers, "_tracking_store", None)
    return server.app.test_client()


def test_runs_and_their_files_are_there(odd_home, pages, tmp_path):
    journal = Journal(begin(), "1")
    journal.log(1, {"loss": 0.25})
    journal.artifact(Path(__file__), "code/test.py")
    journal.finish("FINISHED")
    deliver(journal.folder, Store())
    (run,) = Store().find_runs("tests")

    shown = json.loads(pages.get("/api/2.0/mlflow/runs/get", query_string={"run_id": run.run_id}).data)["run"]
    file = pages.get("/get-artifact", query_string={"run_uuid": run.run_id, "path": "code/test.py"})

    assert [(metric["key"], metric["value"]) for metric in shown["data"]["metrics"]] == [("loss", 0.25)]
    assert file.data == Path(__file__).read_bytes()
    assert list(tmp_path.iterdir()) == [odd_home]
