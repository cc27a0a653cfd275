import ast
from pathlib import Path

import pytest
from sqlalchemy import make_url

from piip import home

PACKAGE = Path(home.__file__).parent


def test_everything_a_run_writes_is_under_one_folder(piip_home):
    places = [home.data_root(), home.storage(), home.journal_dir("key"), home.checkpoint_dir("key")]

    assert home.home() == piip_home
    assert all(place.is_relative_to(piip_home) for place in places)
    assert home.tracking_uri() == f"sqlite:///{piip_home}/mlflow.db"


def test_without_a_variable_it_is_runs_in_the_checkout(monkeypatch, tmp_path):
    monkeypatch.delenv("PIIP_HOME")
    monkeypatch.chdir(tmp_path)

    assert home.home() == PACKAGE.parent / "runs"


@pytest.fixture
def installed(monkeypatch, tmp_path) -> Path:
    """As if the package lay in the folder `site`, with what a wheel brings."""
    site = tmp_path / "site"
    for folder in ("csrc", "experiments"):
        (site / "piip" / folder).mkdir(parents=True)
    monkeypatch.setattr(home, "package_root", lambda: site)
    return site


def test_an_installed_package_writes_where_the_command_is_typed(monkeypatch, tmp_path, installed):
    monkeypatch.delenv("PIIP_HOME")
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")

    assert home.home() == tmp_path / "mine" / "runs"


@pytest.mark.parametrize("folder", ["csrc", "experiments"])
def test_what_lies_beside_the_package_is_inside_it_where_it_is_installed(folder, installed):
    (installed / folder).mkdir()  # somebody else's

    assert home.shipped(folder) == installed / "piip" / folder

    (installed / "piip" / folder).rmdir()
    with pytest.raises(ValueError, match=rf"^{folder}/ not found: .*Install piip again"):
        home.shipped(folder)


def test_in_a_checkout_it_is_beside_the_package():
    assert home.shipped("experiments") == PACKAGE.parent / "experiments"
    assert (home.shipped("csrc") / "deform_attn.cpp").is_file()


def test_a_relative_home_is_refused_with_the_line_to_type(monkeypatch):
    monkeypatch.setenv("PIIP_HOME", "runs/mine")

    with pytest.raises(ValueError, match=r"must be absolute .*got 'runs/mine'\. Try: export PIIP_HOME=\$PWD/runs/mine"):
        home.home()


@pytest.mark.parametrize(("variable", "place"), [("PIIP_DATA", home.data_root), ("PIIP_STORAGE", home.storage)])
def test_data_and_checkpoints_may_lie_elsewhere(monkeypatch, variable, place):
    monkeypatch.setenv(variable, "/mnt/elsewhere")
    assert place() == Path("/mnt/elsewhere")

    monkeypatch.setenv(variable, "~/elsewhere")
    assert place() == Path.home() / "elsewhere"


def test_a_bucket_is_no_place_for_checkpoints(monkeypatch):
    monkeypatch.setenv("PIIP_STORAGE", "s3://bucket/piip")

    with pytest.raises(ValueError, match="is an address; checkpoints need a mounted path"):
        home.storage()


def test_a_given_tracking_server_is_taken(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")

    assert home.tracking_uri() == "http://mlflow:5000"


@pytest.mark.parametrize("folder", ["job%2Fx", "what?", "a#b c", "50%"])
def test_a_path_in_a_uri_is_read_as_it_is(folder):
    file = Path("/srv") / folder / "mlflow.db"

    assert make_url(home.sqlite_uri(file)).database == str(file)


def test_no_other_file_reads_where_things_are():
    places = {"PIIP_HOME", "PIIP_DATA", "PIIP_STORAGE"}
    readers = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Subscript(value=ast.Attribute(attr="environ"), slice=ast.Constant(value=name), ctx=ast.Load()):
                    pass
                case ast.Call(func=ast.Attribute(attr="get" | "getenv"), args=[ast.Constant(value=name), *_]):
                    pass
                case _:
                    continue
            if name in places:
                readers.add(file.name)

    assert readers == {"home.py"}
