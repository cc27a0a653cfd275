"""DINO all the way: trained, scored again from MLflow alone, drawn, and started from an official file."""

import json
import shutil

import pytest
import torch
import torch.distributed as dist
from verbing import Trained

from piip import convert, home, predict, presets, sync
from piip import eval as eval_verb
from piip.catalogue.rows import all_rows
from piip.evaluation.rebuild import rebuild
from piip.record.events import read_metrics
from piip.sweeps.plan import plan_trials
from piip.sweeps.resources import Resources
from piip.tracking.store import Store
from piip.training import run as training
from piip.weights.names.mmdet import official_name

pytestmark = pytest.mark.slow

SMALL = {
    "train.batch_size": 2, "train.log_every": 1, "train.engine": "ddp", "optim.warmup_steps": 1, "speed.kernel": "reference",
    "model.head.num_queries": 20, "model.head.embed_dim": 64, "model.head.encoder_layers": 1, "model.head.decoder_layers": 2,
    "model.head.denoising_queries": 10, "model.head.max_detections": 20,
}  # fmt: skip
ROW = presets.dino_pico(presets.pico("TB", (96, 64), pretrained=False), steps=3).override(SMALL)


@pytest.fixture(scope="module")
def trained_once(demo_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("dino")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIIP_HOME", str(root))
        torch.set_num_threads(1)
        shutil.copytree(demo_folder, home.data_root() / "demo")
        ours = not dist.is_initialized()
        if ours:
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        _, (planned,) = plan_trials([ROW], experiment="tests", resources=Resources())
        training.run(planned.trial, rank=0, world_size=1, report=lambda _: None)
        if ours:
            dist.destroy_process_group()
        assert sync.main() == 0
        (run,) = [r for r in Store().find_runs("tests") if r.tags.get("piip.trial_key") == planned.trial.key]
        yield Trained(home.home(), run.run_id, planned.trial)


@pytest.fixture
def trained(trained_once, monkeypatch) -> Trained:
    monkeypatch.setenv("PIIP_HOME", str(trained_once.home))
    return trained_once


def test_all_losses_and_scores_of_boxes_are_recorded(trained):
    metrics = read_metrics(trained.home / "journals" / trained.trial.key)

    assert {"coco/box_ap", "coco/box_ap50", "best/coco/box_ap"} <= metrics.keys()
    assert not [name for name in metrics if "mask" in name]
    losses = [metrics[name] for name in metrics if name.startswith("train/loss_")]
    assert len(losses) == 12
    assert [step for step, *_ in losses[0]] == [1, 2, 3]


def test_eval_repeats_the_figures_of_training(trained, say):
    said = say(eval_verb.cli, "--run-id", trained.run_id, "--json")

    assert said.code == 0, said.err
    assert said.document["metrics"] == pytest.approx(said.document["logged_before"], abs=1e-6)


def test_predict_draws_boxes(trained, say, tmp_path):
    photo = sorted((trained.demo / "val").glob("*.jpg"))[0]

    said = say(predict.cli, photo, "--run-id", trained.run_id, "-o", tmp_path, "--json")

    assert said.code == 0, said.err
    assert (tmp_path / f"001_{photo.stem}.png").exists()


def test_an_official_file_becomes_a_run(trained, say, tmp_path):
    rebuilt = rebuild(Store(), trained.run_id)
    classes = [c["name"] for c in rebuilt.checkpoint.manifest.categories]
    official = {official_name(name, ROW.model): tensor for name, tensor in rebuilt.model.state_dict().items()}
    torch.save({"meta": {"CLASSES": classes}, "state_dict": official}, tmp_path / "dino.pth")
    (name, row), *_ = ((n, r) for n, r in all_rows().items() if n.startswith("dino_piip_tb_") and r.data.name == "demo")
    given, wanted = row.flat(), ROW.flat()
    changes = [f"{field}={json.dumps(value)}" for field, value in wanted.items() if given.get(field) != value]

    flags = (part for change in changes for part in ("--set", change))
    said = say(convert.cli, tmp_path / "dino.pth", "--row", name, *flags, "--json")

    assert said.code == 0, said.err
    assert (said.document["missing"], said.document["unexplained"]) == ([], {})
    scored = say(eval_verb.cli, "--run-id", said.document["run_id"], "--json")
    assert scored.document["metrics"]["coco/box_ap"] == pytest.approx(rebuilt.run.metrics["coco/box_ap"], abs=1e-6)
