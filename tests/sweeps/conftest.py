import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from piip.data.demo.make import Recipe, make_demo


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Twelve and six drawn images, a data set of the user's own."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    make_demo(folder, Recipe(train=12, val=6, sides=(96, 128), objects=(20, 70)))
    return folder


@pytest.fixture(scope="session")
def new_home(tmp_path_factory, kernels, empty_database) -> Callable[[str], Path]:
    """Makes a PIIP_HOME that outlives a test."""

    def make(name: str) -> Path:
        home = tmp_path_factory.mktemp(name)
        (home / "kernels").symlink_to(kernels)
        shutil.copy(empty_database, home / "mlflow.db")
        return home

    return make


@pytest.fixture(scope="session")
def unkilled(new_home, data):
    """A sweep of the two tiny rows that nothing happened to."""
    from sweeping import SweepCommand

    with SweepCommand(new_home("unkilled"), data) as command:
        command.finish()
        yield command
