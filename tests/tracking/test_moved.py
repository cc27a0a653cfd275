"""A home that moves with its database: files that MLflow notes by absolute addresses are found, and written, where it is now."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from piip.record.journal import Journal
from piip.record.runs import RunRecord, create_run
from piip.tracking.delivery import deliver
from piip.tracking.moved import put_right
from piip.tracking.store import Store


@pytest.fixture
def moved(store, begin, piip_home, tmp_path, monkeypatch) -> Path:
    """The home's new place; in it a run with a file."""
    journal = begin()
    journal.artifact(Path(__file__), "code/test.py")
    deliver(journal.folder, store)
    place = tmp_path / "job%2Fx" / "what? now#"
    place.parent.mkdir()
    shutil.move(piip_home, place)
    piip_home.mkdir()  # its name is not to be used again: MLflow keeps databases open by their addresses
    monkeypatch.setenv("PIIP_HOME", str(place))
    return place


def test_files_are_found_and_new_ones_go_to_the_new_place(moved, piip_home, caplog):
    store = Store()
    (run,) = store.find_runs("tests")

    found = store.download(run.run_id, "code/test.py")
    Journal(create_run(RunRecord("new", "new", "tests", None)), "1").artifact(Path(__file__), "new.py")
    deliver(moved / "journals" / "new", store)

    assert found.read_text() == Path(__file__).read_text()
    assert list((moved / "mlartifacts" / "tests").glob("*/artifacts/new.py"))
    assert list(piip_home.iterdir()) == []
    assert f"noted at {piip_home / 'mlartifacts'}, are at {moved / 'mlartifacts'} now" in caplog.text


def test_a_home_that_is_reached_by_a_link_has_not_moved(tmp_path, caplog):
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    database = sqlite3.connect(tmp_path / "home" / "mlflow.db")
    database.execute("create table experiments (artifact_location)")
    noted = (tmp_path / "home" / "mlartifacts" / "tests").as_uri()
    database.execute("insert into experiments values (?)", (noted,))
    database.commit()

    put_right(tmp_path / "link" / "mlflow.db")

    assert database.execute("select artifact_location from experiments").fetchall() == [(noted,)]
    assert "noted at" not in caplog.text


def test_addresses_elsewhere_stay(store, piip_home, tmp_path, monkeypatch):
    kept = {"own": "file:///mnt/own", "bucket": "s3://bucket/mlartifacts/x"}
    with store._talking() as client:
        for name, place in kept.items():
            client.create_experiment(name, artifact_location=place)
    shutil.move(piip_home, tmp_path / "moved")
    piip_home.mkdir()
    monkeypatch.setenv("PIIP_HOME", str(tmp_path / "moved"))

    with Store()._talking() as client:
        found = {e.name: e.artifact_location for e in client.search_experiments() if e.name in kept}

    assert found == kept
