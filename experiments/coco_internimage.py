"""InternImage, the convolutional peer: its published detectors on COCO, each by its own recipe.

    python experiments/coco_internimage.py --scale pico     # two CPU cores, data it makes, about ten minutes
    python experiments/coco_internimage.py --list           # the published rows beside their figures; 8 to 32 GPUs, a day a row

Expect 47.2 box AP of T (Mask R-CNN, 1x) to 64.2 of G (DINO). T to XL begin with InternImage's own classifiers, whose files are fetched by
name. H and G begin with detectors of Objects365, which have to be given: --set model.weights=FILE. Released detectors of these rows are
scored by piip convert and piip eval.
"""

from piip.presets import (
    INTERNIMAGE,
    detector_pico,
    internimage_cascade,
    internimage_dino,
    internimage_dino_20k,
    internimage_mask_rcnn,
)
from piip.spec import ExperimentSpec, InternImageSpec, PaperResult
from piip.sweeps.cli import main


def mask(size: str, drop_path: float, *ap: tuple[float, float], params_m: float, gflops: float) -> list[ExperimentSpec]:
    """1x and 3x, box and mask AP of each."""
    return [
        internimage_mask_rcnn(
            size, epochs, drop_path=drop_path,
            paper=PaperResult(
                box_ap=box, mask_ap=mask, params_m=params_m, gflops=gflops,
                config=f"mask_rcnn_internimage_{size.lower()}_fpn_{epochs // 12}x_coco",
            ),
        )
        for epochs, (box, mask) in zip((12, 36), ap, strict=True)
    ]  # fmt: skip


def cascade(
    size: str, drop_paths: tuple[float, float], *ap: tuple[float, float], params_m: float, gflops: float
) -> list[ExperimentSpec]:
    """The same of Cascade Mask R-CNN; drop path differs, too."""
    return [
        internimage_cascade(
            size, epochs, drop_path=drop_path,
            paper=PaperResult(
                box_ap=box, mask_ap=mask, params_m=params_m, gflops=gflops,
                config=f"cascade_internimage_{size.lower()}_fpn_{epochs // 12}x_coco",
            ),
        )
        for epochs, drop_path, (box, mask) in zip((12, 36), drop_paths, ap, strict=True)
    ]  # fmt: skip


def dino_paper(config: str, box_ap: float, params_m: float, *, note: str | None = None) -> PaperResult:
    """FLOPs are not printed."""
    return PaperResult(box_ap=box_ap, params_m=params_m, config=f"dino_4scale_internimage_{config}", note=note)


OBJECTS365 = "the printed AP begins with a detector of Objects365: --set model.weights=FILE"

COCO_ROWS = [
    *mask("T", 0.2, (47.2, 42.5), (49.1, 43.7), params_m=49, gflops=270),
    *mask("S", 0.3, (47.8, 43.3), (49.7, 44.5), params_m=69, gflops=340),
    *mask("B", 0.4, (48.8, 44.0), (50.3, 44.8), params_m=115, gflops=501),
    *cascade("L", (0.4, 0.4), (54.9, 47.7), (56.1, 48.5), params_m=277, gflops=1399),
    *cascade("XL", (0.4, 0.6), (55.3, 48.1), (56.2, 48.8), params_m=387, gflops=1782),
    internimage_dino(
        "T", drop_path=0.2, max_detections=100, paper=dino_paper("t_1x_coco_layer_wise_lr", 53.9, 49)
    ),
    internimage_dino("L", drop_path=0.4, paper=dino_paper("l_1x_coco_layer_wise_lr", 57.5, 241)),
    internimage_dino(
        "L", drop_path=0.4, slow_backbone=True, paper=dino_paper("l_1x_coco_0.1x_backbone_lr", 57.6, 241)
    ),
    internimage_dino_20k(INTERNIMAGE["H"], dino_paper("h_objects365_coco_ss", 63.4, 1100, note=OBJECTS365)),
    internimage_dino_20k(INTERNIMAGE["G"], dino_paper("g_objects365_coco_ss", 64.2, 3100, note=OBJECTS365)),
]  # fmt: skip

PICO = InternImageSpec(label="pico", resolution=192, channels=32, depths=(1, 1, 2, 1), groups=(2, 4, 8, 16))
PICO_ROWS = [detector_pico("mask_rcnn", PICO, steps=1200)]

ROWS = {"pico": PICO_ROWS, "coco": COCO_ROWS}

if __name__ == "__main__":
    main(ROWS, experiment="coco_internimage", description=__doc__ or "")
