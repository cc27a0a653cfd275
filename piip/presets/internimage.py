"""InternImage's published detectors (arXiv 2211.05778 and its model zoo): sizes, heads, data and schedules, by name."""

from typing import Any, Literal

from piip.presets.families import INTERNIMAGE, INTERNIMAGE_CASCADE
from piip.presets.recipes import MILESTONES
from piip.spec import (
    CocoSpec,
    DINOSpec,
    ExperimentSpec,
    InternImageSpec,
    MaskRCNNSpec,
    ModelSpec,
    OptimSpec,
    PaperResult,
    TrainSpec,
)
from piip.spec.recipes import CropsSpec, ScalesSpec

PRETRAINING = {
    **{size: f"internimage_{size.lower()}_1k_224.pth" for size in "TSB"},
    **{size: f"internimage_{size.lower()}_22k_192to384.pth" for size in ("L", "XL")},
}
"""What its detectors on COCO begin with: ImageNet-1K or -22K. H and G begin with detectors of Objects365."""
SCALE = (1333, 800)
CROPS = CropsSpec()
"""Of 3x."""
DINO_CROPS = CropsSpec(first_long=4200, empty_crops=False)


def _published(size: str, drop_path: float) -> InternImageSpec:
    return INTERNIMAGE[size].override({"drop_path": drop_path, "weights": PRETRAINING[size]})


def _epochs(epochs: Literal[12, 36]) -> dict[str, Any]:
    return {"epochs": epochs, "batch_size": 16}


def _rates(epochs: Literal[12, 36], **others: Any) -> OptimSpec:
    steps = tuple(epoch / epochs for epoch in MILESTONES[epochs])
    return OptimSpec(**{"groups": "internimage", "layer_decay": 1.0, "milestones": steps, **others})


def _on_crops(epochs: int) -> CocoSpec:
    return CocoSpec(scale=SCALE, pad_multiple=32, recipe=CROPS if epochs == 36 else None)


def internimage_mask_rcnn(
    size: str, epochs: Literal[12, 36], *, drop_path: float, paper: PaperResult
) -> ExperimentSpec:
    """Mask R-CNN on COCO with T, S or B: batches of 16, lr 1e-4, no layer decay; 3x on DETR's crops."""
    backbone = _published(size, drop_path)
    return ExperimentSpec(
        name=f"mask_rcnn_{backbone.row_name}_{epochs // 12}x",
        model=ModelSpec(backbone=backbone, head=MaskRCNNSpec()),
        data=_on_crops(epochs),
        optim=_rates(epochs),
        train=TrainSpec(**_epochs(epochs)),
        paper=paper,
    )


def internimage_cascade(size: str, epochs: Literal[12, 36], *, drop_path: float, paper: PaperResult) -> ExperimentSpec:
    """Cascade Mask R-CNN on COCO with L or XL: 1x as above but for layer decay; 3x with batches of 64, lr 2e-4 and a mean of weights."""
    backbone = _published(size, drop_path)
    # the factor of 3x is for layers that a Cascade R-CNN does not have: the released configurations name it all the same
    rates = {"layer_decay": 0.94} if epochs == 12 else {"layer_decay": 0.9, "lr": 2e-4, "offset_rate": 0.01}
    longer = {"batch_size": 64, "ema": 0.9999, "ema_warmup": 2000} if epochs == 36 else {}
    return ExperimentSpec(
        name=f"cascade_mask_rcnn_{backbone.row_name}_{epochs // 12}x",
        model=ModelSpec(backbone=backbone, head=INTERNIMAGE_CASCADE),
        data=_on_crops(epochs),
        optim=_rates(epochs, **rates),
        train=TrainSpec(**{**_epochs(epochs), **longer}),
        paper=paper,
    )


def internimage_dino(
    size: str, *, drop_path: float, paper: PaperResult, max_detections: int = 300, slow_backbone: bool = False
) -> ExperimentSpec:
    """DINO on COCO with T or L: 12 epochs on DETR's crops, batches of 16, gradients clipped at .1.

    Args:
        size: Of the backbone.
        drop_path: Its rate.
        paper: Printed figures.
        max_detections: An image.
        slow_backbone: All of it learns at a tenth of the rate, weights and norms alike decay; else layers learn the slower the earlier.
    """
    backbone = _published(size, drop_path)
    rates: dict[str, Any] = {"layer_decay": 0.9, "weight_decay": 1e-4}
    if slow_backbone:  # "classification": ten times this rate outside the backbone
        rates = {"groups": "classification", "lr": 1e-5, "weight_decay": 0.05}
    return ExperimentSpec(
        name=f"dino_{backbone.row_name}{'_slow_backbone' if slow_backbone else ''}_1x",
        model=ModelSpec(backbone=backbone, head=DINOSpec(max_detections=max_detections)),
        data=CocoSpec(scale=SCALE, pad_multiple=32, recipe=DINO_CROPS),
        optim=_rates(12, milestones=(11 / 12,), clip_norm=0.1, **rates),
        train=TrainSpec(**_epochs(12)),
        paper=paper,
    )


def internimage_dino_20k(backbone: InternImageSpec, paper: PaperResult) -> ExperimentSpec:
    """DINO on COCO with H or G: 20000 steps at one rate, from a detector of Objects365, on images with a long side of 2000.

    The released configurations put one image on a GPU and do not say on how many: batches are of 16, as everywhere else.
    """
    backbone = backbone.override({"drop_path": 0.5, "resolution": 2000, "checkpointing": True})
    return ExperimentSpec(
        name=f"dino_{backbone.row_name}_20k",
        model=ModelSpec(backbone=backbone, head=DINOSpec(denoising_queries=1000)),
        data=CocoSpec(
            scale=(2000, 1800), eval_scale=(2000, 1000), pad_multiple=32,
            recipe=ScalesSpec(short=(600, 1800), between=True, long=2000),
        ),
        optim=_rates(12, layer_decay=0.94, weight_decay=1e-4, clip_norm=0.1, offset_rate=1e-3, schedule="constant"),
        train=TrainSpec(batch_size=16, steps=20_000, eval_every=200, save_every=200, keep=3),
        paper=paper,
    )  # fmt: skip
