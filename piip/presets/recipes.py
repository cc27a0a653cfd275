"""The published recipes: detector, data and schedule of a table's rows, by name."""

from typing import Literal

from piip.presets.combine import each_branch
from piip.presets.families import IMAGENET_PIXELS
from piip.spec import (
    Ade20kSpec,
    Backbone,
    ClassifierSpec,
    CocoSpec,
    DINOSpec,
    ExperimentSpec,
    ImageNetSpec,
    MaskRCNNSpec,
    ModelSpec,
    OptimSpec,
    PaperResult,
    PIIPSpec,
    RetinaNetSpec,
    TrainSpec,
    UPerNetSpec,
)
from piip.spec.recipes import CropsSpec

MILESTONES = {12: (8, 11), 24: (16, 22), 36: (27, 33)}
"""Epochs of the published 1x, 2x and 3x -> those after which the rate is a tenth."""


def lasting(epochs: Literal[12, 24, 36]) -> dict[str, object]:
    """What changes in a row that trains for 1x, 2x or 3x."""
    return {"train.epochs": epochs, "optim.milestones": [epoch / epochs for epoch in MILESTONES[epochs]]}


PIIP_CROPS = CropsSpec(last_crop=1024)
"""Of the released configurations called "ms", for networks whose first branch sees 1024 pixels; longer for larger ones (`times`)."""


def on_crops(resolution: int = 1024, *, pad_multiple: int = 64) -> dict[str, object]:
    """What changes in a row that trains on crops, for a first branch of `resolution`; it is scored at 1333 x 800, or as much larger."""
    factor = resolution / 1024
    return {
        "data.recipe": PIIP_CROPS.times(factor).model_dump(mode="json"),
        "data.eval_scale": (int(1333 * factor), int(800 * factor)),
        "data.pad_multiple": pad_multiple,
    }


def mask_rcnn_1x(backbone: Backbone, paper: PaperResult | None = None) -> ExperimentSpec:
    """Mask R-CNN on COCO: 12 epochs, batch 16, AdamW with layer decay 0.85, bf16 (paper, appendix; released configs "bs16")."""
    return ExperimentSpec(
        name=f"mask_rcnn_{backbone.row_name}_1x",
        model=ModelSpec(backbone=backbone, head=MaskRCNNSpec()),
        train=TrainSpec(batch_size=16, epochs=12, precision="bf16", zero_stage=1),
        paper=paper,
    )


MULTI_SCALE = CropsSpec(first_long=20_000)
"""DETR's crops as detectron2's networks have them: the long side is not limited before the cut."""


def detectron2_adamw(
    head: MaskRCNNSpec | RetinaNetSpec, backbone: Backbone, paper: PaperResult | None = None, *, times: Literal[1, 3]
) -> ExperimentSpec:
    """A detector as MPViT trains it with detectron2: AdamW at one rate, decay on every parameter, whole gradient clipped at 1.

    1x is 90,000 steps of 16 images with a short side of 800; 3x is 270,000 at many scales (DETR's crops). Images without objects stay.

    Args:
        head: In detectron2's dialect, where it has one.
        backbone: What it stands on.
        paper: The printed line.
        times: 1x or 3x.
    """
    steps, milestones = {1: (90_000, (60, 80)), 3: (270_000, (210, 250))}[times]
    return ExperimentSpec(
        name=f"{head.kind}_{backbone.row_name}_{'1x' if times == 1 else 'ms_3x'}",
        model=ModelSpec(backbone=backbone, head=head),
        data=CocoSpec(pad_multiple=32, recipe=MULTI_SCALE if times == 3 else None),
        optim=OptimSpec(
            groups="uniform",
            layer_decay=1.0,
            warmup_steps=1000,
            warmup_ratio=0.01,
            clip_norm=1.0,
            milestones=(milestones[0] * 1000 / steps, milestones[1] * 1000 / steps),
        ),
        train=TrainSpec(batch_size=16, steps=steps, eval_every=10_000, save_every=5_000),
        paper=paper,
    )


def dino(backbone: PIIPSpec, paper: PaperResult | None = None, *, epochs: Literal[12, 24, 36]) -> ExperimentSpec:
    """DINO (4 scales) on COCO: batch 32, lr 2e-4, 0.1 x at 2/3 and 11/12 of the epochs (3/4 and 11/12 of 36)."""
    row = ExperimentSpec(
        name=f"dino_{backbone.row_name}_{epochs // 12}x",
        model=ModelSpec(backbone=backbone, head=DINOSpec()),
        optim=OptimSpec(lr=2e-4),
        train=TrainSpec(batch_size=32, precision="bf16", zero_stage=1),
        paper=paper,
    )
    return row.override(lasting(epochs))


def upernet_80k(backbone: PIIPSpec, paper: PaperResult | None = None) -> ExperimentSpec:
    """UperNet on ADE20K, crops of 512: 80000 steps of 16, lr 4e-5 falling straight to 0, layer decay 0.95, bf16 but for the heads."""
    return ExperimentSpec(
        name=f"upernet_{backbone.row_name}_80k",
        model=ModelSpec(
            backbone=each_branch(backbone, {"positions": "resolution", **IMAGENET_PIXELS}), head=UPerNetSpec()
        ),
        data=Ade20kSpec(),
        optim=OptimSpec(lr=4e-5, layer_decay=0.95, warmup_steps=1500, warmup_ratio=1e-6, schedule="poly"),
        train=TrainSpec(batch_size=16, steps=80_000, precision="bf16", zero_stage=1, eval_every=1000, save_every=2000),
        paper=paper,
    )


def classifier_20ep(backbone: PIIPSpec, paper: PaperResult | None = None) -> ExperimentSpec:
    """ImageNet-1K, as released: a head per branch on its first patch; 20 epochs of 1024, lr 3e-5, all but the branches ten times faster.

    Left out: the running mean of the weights (EMA .99996) that the official code tracks and saves; printed accuracies are of the
    weights themselves, as here. It trains in fp16, we in bf16.
    """
    whole = each_branch(
        backbone,
        {"positions": "resolution", "class_token": True, "window": None, "checkpointing": True, **IMAGENET_PIXELS},
    )
    constant = each_branch(whole, {"drop_path_rule": "constant"})
    return ExperimentSpec(
        name=f"classifier_{backbone.row_name}_20ep",
        model=ModelSpec(backbone=constant, head=ClassifierSpec(head_token="first_patch")),
        data=ImageNetSpec(),
        # warm-up from 1e-6, 5 of 20 epochs
        optim=OptimSpec(
            lr=3e-5,
            groups="classification",
            weight_decay=0.1,
            layer_decay=1.0,
            schedule="cosine",
            min_lr=1e-5,
            warmup_part=5 / 20,
            warmup_ratio=1e-6 / 3e-5,
        ),
        train=TrainSpec(batch_size=1024, epochs=20, precision="bf16", zero_stage=1),
        paper=paper,
    )
