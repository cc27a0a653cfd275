"""Segmentation all the way: trained, scored again from MLflow alone, drawn, and started from an official file."""

import json

import pytest
import torch
import torch.distributed as dist
from PIL import Image
from verbing import Trained

from piip import convert, predict, presets, sync
from piip import eval as eval_verb
from piip.data.demo.make import Recipe, make_demo
from piip.evaluation.rebuild import rebuild
from piip.record.events import read_metrics
from piip.sweeps.plan import plan_trials
from piip.sweeps.resources import Resources
from piip.tracking.store import Store
from piip.training import run as training
from piip.weights.names.mmdet import official_name

pytestmark = pytest.mark.slow

STEPS = 3
ROW = presets.upernet_pico(presets.pico("TB", (96, 64), pretrained=False), steps=STEPS).override(
    {
        "train.batch_size": 2,
        "train.log_every": 1,
        "train.engine": "ddp",
        "optim.warmup_steps": 1,
        "speed.kernel": "reference",
    }
)


def trained_row(row) -> Trained:
    """A row through plan, training, journal and MLflow; no Ray."""
    from piip import home

    _, (planned,) = plan_trials([row], experiment="tests", resources=Resources())
    training.run(planned.trial, rank=0, world_size=1, report=lambda _: None)
    assert sync.main() == 0
    (run,) = [r for r in Store().find_runs("tests") if r.tags.get("piip.trial_key") == planned.trial.key]
    return Trained(home.home(), run.run_id, planned.trial)


@pytest.fixture(scope="module")
def segmented_once(tmp_path_factory):
    root = tmp_path_factory.mktemp("segmented")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PIIP_HOME": str(root), "PIIP_KERNEL": "reference"}.items():
            patch.setenv(name, value)
        torch.set_num_threads(1)
        make_demo(root / "data" / "demo", Recipe(train=6, val=3, sides=(96, 128), objects=(24, 76)))
        ours = not dist.is_initialized()
        if ours:
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        yield trained_row(ROW)
        if ours:
            dist.destroy_process_group()


@pytest.fixture
def segmented(segmented_once, monkeypatch) -> Trained:
    monkeypatch.setenv("PIIP_HOME", str(segmented_once.home))
    return segmented_once


def test_both_losses_and_all_scores_are_recorded(segmented):
    metrics = read_metrics(segmented.home / "journals" / segmented.trial.key)

    losses = [metrics[f"train/loss_{part}"] for part in ("seg", "aux")]
    assert [step for step, *_ in losses[0]] == [1, 2, 3]
    assert metrics["train/loss"][0][1] == pytest.approx(losses[0][0][1] + losses[1][0][1])
    assert {"ade20k/miou", "ade20k/acc", "ade20k/macc", "best/ade20k/miou"} <= metrics.keys()


def test_eval_repeats_the_figures_of_training(segmented, say):
    said = say(eval_verb.cli, "--run-id", segmented.run_id, "--json")

    assert said.code == 0, said.err
    assert set(said.document["metrics"]) == {"ade20k/miou", "ade20k/acc", "ade20k/macc"}
    assert said.document["metrics"] == pytest.approx(said.document["logged_before"], abs=1e-6)


def test_predict_draws_maps_with_a_legend(segmented, say, tmp_path):
    photo = sorted((segmented.home / "data/demo/ade20k/images/validation").glob("*.jpg"))[0]

    said = say(predict.cli, photo, "--run-id", segmented.run_id, "-o", tmp_path, "--json")

    assert said.code == 0, said.err
    with Image.open(tmp_path / f"001_{photo.stem}.png") as drawn, Image.open(photo) as original:
        factor = drawn.height // original.height
        assert drawn.width > factor * original.width
    assert "classes: " in said.err


def test_an_official_file_becomes_a_run_and_a_start(segmented, say, tmp_path):
    rebuilt = rebuild(Store(), segmented.run_id)
    classes = [c["name"] for c in rebuilt.checkpoint.manifest.categories]
    official = {official_name(name, ROW.model): tensor for name, tensor in rebuilt.model.state_dict().items()}
    torch.save({"meta": {"CLASSES": classes}, "state_dict": official}, tmp_path / "upernet.pth")
    row = next(iter(experiment_rows()))

    said = say(convert.cli, tmp_path / "upernet.pth", "--row", row, *changes_to(ROW), "--json")

    assert said.code == 0, said.err
    assert (said.document["missing"], said.document["unexplained"]) == ([], {})
    again = rebuild(Store(), said.document["run_id"])
    images = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again.model(images)[0]["logits"], rebuilt.model(images)[0]["logits"])
    scored = say(eval_verb.cli, "--run-id", said.document["run_id"], "--json")
    assert scored.document["metrics"]["ade20k/miou"] == pytest.approx(rebuilt.run.metrics["ade20k/miou"], abs=1e-6)

    tuned = trained_row(ROW.override({"model.weights": str(tmp_path / "upernet.pth"), "optim.lr": 1e-9}))

    # at no rate to speak of it stays what it was, but for running statistics
    start, end = rebuilt.model.state_dict(), rebuild(Store(), tuned.run_id).model.state_dict()
    torch.testing.assert_close(
        end["head.decode.conv_seg.weight"], start["head.decode.conv_seg.weight"], atol=1e-6, rtol=0
    )


def experiment_rows():
    from piip.catalogue.rows import all_rows

    return (name for name, row in all_rows().items() if name.startswith("upernet_piip_tb_") and row.data.name == "demo")


def changes_to(row):
    """Flags that make the first small row of experiments/ this one."""
    from piip.catalogue.rows import find_row

    given, wanted = find_row(next(iter(experiment_rows()))).flat(), row.flat()
    changed = {name: value for name, value in wanted.items() if given.get(name) != value}
    return [part for name, value in changed.items() for part in ("--set", f"{name}={json.dumps(value)}")]
