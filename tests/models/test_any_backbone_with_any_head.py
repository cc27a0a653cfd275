"""Every kind of backbone with every kind of head, as small as they get: builds, trains a step, predicts; or says why not."""

from typing import get_args

import pytest
import torch

from piip.contracts import IGNORE
from piip.models import build_model
from piip.ops.mask_runs import runs_of
from piip.presets import PICO, PICO_DINO, piip
from piip.spec import (
    Backbone,
    CascadeMaskRCNNSpec,
    CascadeRCNNSpec,
    ClassifierSpec,
    CNNSpec,
    FasterRCNNSpec,
    Head,
    InteractionSpec,
    InternImageSpec,
    KeypointRCNNSpec,
    MaskRCNNSpec,
    ModelSpec,
    MPViTSpec,
    ResNetSpec,
    RetinaNetSpec,
    UPerNetSpec,
)

CLASSES, SIDE = 3, 64
_TWO_STAGE = {"num_classes": CLASSES, "fpn_channels": 8, "box_channels": 8, "rpn_pre_nms": 40, "rpn_post_nms": 20}
_MASKS = {"mask_convs": 1, "mask_channels": 8}
BACKBONES = {
    "piip": piip("TB", (64, 32), branches=PICO, interaction=InteractionSpec(count=2, num_heads=4)),
    "vit": piip("T", (64,), branches=PICO),
    "cnn": CNNSpec(arch="resnet18", resolution=SIDE),
    "resnet": ResNetSpec(resolution=SIDE, channels=8, depths=(1, 1, 1, 1), norm="group", norm_groups=4),
    "internimage": InternImageSpec(resolution=SIDE, channels=16, depths=(1, 1, 1, 1), groups=(1, 2, 4, 8)),
    "mpvit": MPViTSpec(resolution=SIDE, channels=(8, 8, 16, 16), paths=(2, 1, 1, 1), depths=(1, 1, 1, 1)),
}
HEADS = {
    "faster_rcnn": FasterRCNNSpec(**_TWO_STAGE),
    "mask_rcnn": MaskRCNNSpec(**_TWO_STAGE, **_MASKS),
    "keypoint_rcnn": KeypointRCNNSpec(**_TWO_STAGE, num_keypoints=3, keypoint_convs=1, keypoint_channels=8),
    "cascade_rcnn": CascadeRCNNSpec(**_TWO_STAGE),
    "cascade_mask_rcnn": CascadeMaskRCNNSpec(
        **_TWO_STAGE, **_MASKS, box_convs=1, class_agnostic=False, box_loss="giou"
    ),
    "retinanet": RetinaNetSpec(num_classes=CLASSES, fpn_channels=8),
    "dino": PICO_DINO.override({"num_classes": CLASSES, "num_queries": 10, "embed_dim": 32, "ffn_dim": 32}),
    "upernet": UPerNetSpec(num_classes=CLASSES, channels=8, inference="whole"),
    "classifier": ClassifierSpec(num_classes=CLASSES, reads="map"),
    "classifier of tokens": ClassifierSpec(num_classes=CLASSES),
}
REFUSED = {
    (backbone, "classifier of tokens"): "this head reads the tokens of a PIIP"
    for backbone in ("cnn", "resnet", "internimage", "mpvit")
}


def kinds(union) -> set[str]:
    return {spec.model_fields["kind"].default for spec in get_args(get_args(union)[0])}


def target():
    """What any head learns from: two objects, a label for every pixel, a class."""
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
    masks[0, 4:40, 4:40], masks[1, 30:60, 10:50] = 1, 1
    return {
        "boxes": torch.tensor([[4.0, 4, 40, 40], [10, 30, 50, 60]]), "labels": torch.tensor([1, CLASSES]), "mask_runs": runs_of(masks),
        "keypoints": torch.tensor([[[4.0, 4, 2], [39, 4, 1], [0, 0, 0]], [[10, 30, 2], [49, 59, 2], [30, 45, 1]]]),
    }  # fmt: skip


def targets_of(head: str):
    if head.startswith("classifier"):
        return [{"probabilities": torch.eye(CLASSES)[0]}] * 2
    if head == "upernet":
        return [{"labels": torch.full((SIDE, SIDE), fill)} for fill in (1, IGNORE)]
    return [target(), {name: value[:0] for name, value in target().items()}]


def test_every_kind_has_its_place():
    assert {spec.kind for spec in BACKBONES.values()} == kinds(Backbone)
    assert {spec.kind for spec in HEADS.values()} == kinds(Head)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_they_go_together_or_say_why_not(backbone, head):
    torch.manual_seed(0)
    spec = ModelSpec(backbone=BACKBONES[backbone], head=HEADS[head])
    if reason := REFUSED.get((backbone, head)):
        with pytest.raises(ValueError, match=reason):
            build_model(spec, pretrained=False)
        return
    model = build_model(spec, pretrained=False)
    images = torch.rand(2, 3, SIDE, SIDE)

    losses = model(images, [(SIDE, SIDE), (SIDE, SIDE - 9)], targets_of(head))
    sum(losses.values()).backward()
    with torch.no_grad():
        predictions = model.eval()(images, [(SIDE, SIDE), (SIDE, SIDE - 9)])

    assert all(name.startswith("loss_") and loss.isfinite() for name, loss in losses.items())
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert len(predictions) == 2
    assert ("masks" in predictions[0]) == HEADS[head].learns_masks
    assert ("keypoints" in predictions[0]) == bool(HEADS[head].learned_keypoints)
