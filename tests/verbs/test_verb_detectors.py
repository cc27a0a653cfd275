"""Every detector by anchors all the way: trained, rebuilt from MLflow alone, scored again to the same figures."""

import pytest
import torch
import torch.distributed as dist
from formats import FORMATS

from piip import eval as eval_verb
from piip import presets, sync
from piip.evaluation.rebuild import rebuild
from piip.record.events import read_metrics
from piip.sweeps.own_data import OwnData, of_own_kind
from piip.sweeps.plan import plan_trials
from piip.sweeps.resources import Resources
from piip.tracking.store import Store
from piip.training import run as training

pytestmark = pytest.mark.slow

SMALL = {
    "train.batch_size": 2, "train.log_every": 1, "train.engine": "ddp", "optim.warmup_steps": 1, "speed.kernel": "reference",
}  # fmt: skip


@pytest.fixture
def one_process():
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("head", "kind"),
    [("cascade_mask_rcnn", "coco"), ("retinanet", "coco"), ("faster_rcnn", "voc"), ("keypoint_rcnn", "coco")],
)
def test_a_detector_trains_and_is_scored_again(head, kind, sources, piip_home, one_process, say, tmp_path):
    row = presets.detector_pico(head, presets.pico("TB", (96, 64), pretrained=False), steps=2).override(SMALL)
    if head == "cascade_mask_rcnn":  # as InternImage has it
        row = row.override(
            {"model.head.box_convs": 1, "model.head.class_agnostic": False, "model.head.box_loss": "giou"}
        )

    custom = None
    if kind != "coco":  # files of the user's own, in another format
        row = of_own_kind(OwnData(kind=kind), row).override({"data.name": "mine"})
        custom = dict.fromkeys(("train", "val"), FORMATS[kind](tmp_path))

    _, (planned,) = plan_trials([row], experiment="tests", resources=Resources(), custom=custom)
    training.run(planned.trial, rank=0, world_size=1, report=lambda _: None)
    assert sync.main() == 0

    metrics = read_metrics(piip_home / "journals" / planned.trial.key)
    assert ("coco/mask_ap" in metrics) == row.model.head.learns_masks
    assert ("coco/keypoint_ap" in metrics) == bool(row.model.head.learned_keypoints)
    assert row.scores[0].name in metrics
    (run,) = [r for r in Store().find_runs("tests") if r.tags.get("piip.trial_key") == planned.trial.key]
    rebuilt = rebuild(Store(), run.run_id, "last").model
    counted = {name: value for name, value in rebuilt.named_buffers() if "normaliser" in name or "running_mean" in name}
    assert counted or head in ("faster_rcnn", "keypoint_rcnn")
    assert all(value.ne(100).all() and value.abs().sum() > 0 for value in counted.values())
    said = say(eval_verb.cli, "--run-id", run.run_id, "--json")
    assert said.code == 0, said.err
    assert said.document["metrics"] == pytest.approx(said.document["logged_before"], abs=1e-6)
