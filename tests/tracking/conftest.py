import shutil
from collections.abc import Callable

import pytest

from piip.record.journal import Journal
from piip.record.runs import RunRecord, create_run
from piip.tracking.store import Store

Begin = Callable[..., Journal]


@pytest.fixture
def store(piip_home, empty_database) -> Store:
    """An empty MLflow on SQLite under PIIP_HOME."""
    shutil.copy(empty_database, piip_home / "mlflow.db")
    return Store()


@pytest.fixture
def begin(piip_home) -> Begin:
    """Begins a run and opens its journal."""

    def begin(key: str = "trial", *, attempt: str = "1", parent: str | None = None, **changes) -> Journal:
        fields = {
            "name": f"name of {key}",
            "experiment": "tests",
            "parent_key": parent,
            "created_ms": 1_700_000_000_000,
        }
        return Journal(create_run(RunRecord(key, **{**fields, **changes})), attempt)

    return begin
