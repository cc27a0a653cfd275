"""A run trained without Ray, once for all verbs, and `say`, which types a verb."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from verbing import Said, Trained, spec_to_train

from piip import sync
from piip.data.demo import make as demo
from piip.data.demo.make import Recipe, make_demo
from piip.ops.compiled import cpu
from piip.sweeps.plan import plan_trials
from piip.sweeps.resources import Resources
from piip.tracking.store import Store
from piip.training import run as training


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory) -> Trained:
    """One row through plan, training, journal and MLflow; no Ray."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PIIP_HOME": str(root), "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
            patch.setenv(name, value)
        for name in ("PIIP_DATA", "PIIP_STORAGE", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        torch.set_num_threads(1)
        make_demo(root / "data" / "demo", Recipe(train=6, val=3, sides=(96, 128), objects=(24, 76)))
        _, (planned,) = plan_trials([spec_to_train()], experiment="tests", resources=Resources())
        ours = not dist.is_initialized()
        if ours:
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        training.run(planned.trial, rank=0, world_size=1, report=lambda _: None)
        if ours:
            dist.destroy_process_group()
        assert sync.main() == 0
        (run,) = [r for r in Store().find_runs("tests") if r.tags.get("piip.trial_key") == planned.trial.key]
    return Trained(root, run.run_id, planned.trial)


@pytest.fixture
def trained(trained_once, monkeypatch) -> Trained:
    """The run, in this test's PIIP_HOME."""
    monkeypatch.setenv("PIIP_HOME", str(trained_once.home))
    return trained_once


@pytest.fixture(autouse=True)
def nothing_is_made_twice(monkeypatch) -> None:
    """The row asks for the reference kernel, so none is compiled; its demo data stay the few images they are."""
    monkeypatch.setattr(cpu, "load", lambda: False)
    monkeypatch.setattr(demo, "ensure_demo", lambda root: root)


@pytest.fixture
def say(capsys) -> Callable[..., Said]:
    """`say(verb, *arguments)`: the verb in this process."""

    def run(verb: Callable, *arguments: object) -> Said:
        capsys.readouterr()
        try:
            code = verb([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = stopped.code
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run


@pytest.fixture
def copied(trained, tmp_path) -> tuple[Path, Path]:
    """A copy of the demo's validation split, to be damaged: annotation file and image folder."""
    annotations, images = tmp_path / "val.json", tmp_path / "val"
    shutil.copy(trained.demo / "annotations/instances_val.json", annotations)
    shutil.copytree(trained.demo / "val", images)
    return annotations, images
