"""What MLflow lost, or a home left behind, against what people type next: what is said, the exit code, and no row lost."""

import json
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow.tracking._tracking_service import utils as tracking_utils
from server import free_port
from verbing import Said, Trained, spec_to_train

from piip import eval as eval_verb
from piip import predict, report, sync
from piip.home import journal_dir
from piip.record.journal import Journal
from piip.record.runs import RunRecord, create_run
from piip.spec import ExperimentSpec
from piip.sweeps import cli as experiment
from piip.sweeps.plan import plan_trials
from piip.sweeps.resources import Resources
from piip.tracking.store import Store

pytestmark = pytest.mark.slow


@dataclass
class Finished:
    """A sweep of two trials, as it stands in its home and in MLflow; the first one was trained."""

    home: Path
    run_id: str
    image: Path
    names: list[str]


def rows() -> list[ExperimentSpec]:
    trained = spec_to_train()
    return [trained, trained.override({"name": "not_trained", "optim.lr": 0.5})]


@pytest.fixture
def finished(trained: Trained, tmp_path, monkeypatch) -> Finished:
    home = tmp_path / "home"
    shutil.copytree(trained.home, home, symlinks=True)
    monkeypatch.setenv("PIIP_HOME", str(home))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    parent, (_, second) = plan_trials(rows(), experiment="tests", resources=Resources())
    journal = Journal(journal_dir(second.trial.key), "made by hand")
    journal.log(4, {"coco/box_ap": 0.125, "best/coco/box_ap": 0.125})
    journal.finish("FINISHED")
    Journal(journal_dir(parent), "made by hand").finish("FINISHED")
    assert sync.main() == 0
    image = next((home / "data" / "demo" / "val").glob("*.jpg"))
    return Finished(home, trained.run_id, image, [row.name for row in rows()])


def run_deleted(finished: Finished, monkeypatch) -> None:
    with Store()._talking() as client:
        client.delete_run(finished.run_id)


def experiment_deleted(finished: Finished, monkeypatch) -> None:
    with Store()._talking() as client:
        client.delete_experiment(client.get_experiment_by_name("tests").experiment_id)


def experiment_renamed(finished: Finished, monkeypatch) -> None:
    with Store()._talking() as client:
        client.rename_experiment(client.get_experiment_by_name("tests").experiment_id, "a new name")


def home_moved(finished: Finished, monkeypatch) -> None:
    place = finished.home.parent / "job%2Fx" / "moved?"
    place.parent.mkdir()
    shutil.move(finished.home, place)
    monkeypatch.setenv("PIIP_HOME", str(place))
    # what moves a home comes between two commands; this process has told MLflow of its runs before and MLflow remembers their places
    monkeypatch.setattr(tracking_utils, "_artifact_repos_cache", OrderedDict())
    finished.image = place / finished.image.relative_to(finished.home)
    finished.home = place


def journal_undeliverable(finished: Finished, monkeypatch) -> None:
    Journal(create_run(RunRecord("never-1", "never", "x" * 600, None)), "1").log(1, {"loss": 1.0})


def server_gone(finished: Finished, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(sync, "RETRY_S", 100)  # asked once


def again() -> tuple[Callable, list[object]]:
    def run(arguments):
        experiment.main({"pico": rows()}, experiment="x", description="", arguments=arguments)

    return run, ["--scale", "pico", "--experiment", "tests", "--json"]


def typed(verb: str, finished: Finished) -> tuple[Callable, list[object]]:
    match verb:
        case "the same sweep":
            return again()
        case "eval":
            return eval_verb.cli, ["--run-id", finished.run_id, "--json"]
        case "predict":
            out = finished.home / "drawn"
            return predict.cli, [finished.image, "--run-id", finished.run_id, "--out", out, "--json"]
        case "report":
            return report.cli, ["--experiment", "tests", "--json"]
        case _:
            return sync.cli, ["--json"]


RESTORE_RUN = r"was deleted in MLflow\. Bring it back with `MLFLOW_TRACKING_URI=\S+ mlflow runs restore --run-id "
RESTORE_ALL = r"was deleted in MLflow.*Bring it back with `MLFLOW_TRACKING_URI=\S+ mlflow experiments restore -x \d"
DOWN = "connection refused. Nothing is lost"
TABLE = {
    run_deleted: {
        "the same sweep": (0, RESTORE_RUN), "eval": (1, RESTORE_RUN), "predict": (1, RESTORE_RUN),
        "report": (0, f" is left out: run .*{RESTORE_RUN}"), "sync": (0, RESTORE_RUN),
    },
    experiment_deleted: {
        "the same sweep": (0, RESTORE_ALL), "eval": (1, RESTORE_ALL), "predict": (1, RESTORE_ALL),
        "report": (1, RESTORE_ALL), "sync": (0, RESTORE_ALL),
    },
    experiment_renamed: {
        "the same sweep": (0, ""), "eval": (0, ""), "predict": (0, ""),
        "report": (1, r"Its runs are in 'a new name' now: it was renamed in MLflow\."), "sync": (0, "up to date"),
    },
    home_moved: {
        "the same sweep": (0, "noted at"), "eval": (0, "noted at"), "predict": (0, "noted at"), "report": (0, "noted at"), "sync": (0, ""),
    },
    journal_undeliverable: {
        "the same sweep": (0, ""), "eval": (0, ""), "predict": (0, ""), "report": (0, ""), "sync": (1, "never-1: MLflow refuses"),
    },
    server_gone: {
        "the same sweep": (0, "has not everything yet. When it is back: python -m piip.sync"),
        "eval": (1, DOWN), "predict": (1, DOWN), "report": (1, DOWN), "sync": (1, DOWN),
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("happened", "verb"), [(h, v) for h, verbs in TABLE.items() for v in verbs], ids=lambda x: getattr(x, "__name__", x)
)
def test_what_is_said_and_nothing_is_lost(say, finished, monkeypatch, happened, verb):
    code, expected = TABLE[happened][verb]
    happened(finished, monkeypatch)
    command, arguments = typed(verb, finished)

    said: Said = say(command, *arguments)

    assert said.code == code, said
    assert re.search(expected, said.err + said.out, re.DOTALL), said
    assert "Traceback" not in said.err + said.out
    if code:
        assert len([line for line in said.err.splitlines() if line.startswith("error: ")]) == 1
    if verb == "the same sweep":
        assert {trial["name"]: trial["status"] for trial in said.document["trials"]} == dict.fromkeys(
            finished.names, "finished"
        )
    if verb == "report" and code == 0:
        left = finished.names[1:] if happened is run_deleted else finished.names  # the deleted one is said
        assert {trial["name"] for trial in said.document["trials"]} == set(left)
    # nothing outside the home, and none where it was
    assert list(Path.cwd().iterdir()) == []
    assert not (happened is home_moved and (finished.home.parent.parent / "home").exists())


def test_after_a_move_pictures_and_predictions_are_the_runs_own(say, finished, monkeypatch):
    home_moved(finished, monkeypatch)

    said = say(eval_verb.cli, "--run-id", finished.run_id, "--json")

    assert said.document["metrics"] == pytest.approx(said.document["logged_before"], abs=1e-6)
    assert Path(said.document["predictions"]).is_relative_to(finished.home)
    assert list((finished.home / "mlartifacts").glob(f"*/{finished.run_id}/artifacts/eval/val/predictions.json"))


def test_a_restored_run_is_told_what_it_missed(say, finished, monkeypatch):
    run_deleted(finished, monkeypatch)
    with Store()._talking() as client:
        client.restore_run(finished.run_id)

    said = say(sync.cli, "--json")

    assert {run["state"] for run in json.loads(said.out)["runs"]} == {"up to date"}
