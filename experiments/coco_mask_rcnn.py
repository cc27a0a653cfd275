"""The main detection table of PIIP: Mask R-CNN on COCO, DeiT branches beside single ViTs of equal cost.

    python experiments/coco_mask_rcnn.py --list
    ray job submit --working-dir . -- python experiments/coco_mask_rcnn.py --workers 8 --gpus-per-worker 1

Expect 43.6-46.5 box AP from TSB against 43.7 of ViT-B, 46.5-49.3 from SBL against 46.7 of ViT-L; 8 GPUs, up to a day a row.

TSBL comes twice. The official class builds its first branch from the second one's settings, so the networks behind the printed AP
(`tsbl_released`) have two S branches; the printed cost is that of the network as meant, with a T branch (`tsbl`).
"""

from piip.presets import DEIT, SBL, TSB, mask_rcnn_1x, piip
from piip.spec import ExperimentSpec, PaperResult
from piip.sweeps.cli import main

BASELINE = {"optim.layer_decay": 0.95, "data.pad_multiple": 64}
RELEASED = {**DEIT, "T": DEIT["S"]}


def tsbl(
    resolutions: tuple[int, ...], *, box_ap: float, mask_ap: float, params_m: float, gflops: float
) -> list[ExperimentSpec]:
    """A row of the table as meant and as released, each with the figures that belong to it."""
    config = f"mask_rcnn_deit_tsbl_{'_'.join(map(str, resolutions))}_fpn_1x_coco_bs16"
    meant = PaperResult(
        params_m=params_m, gflops=gflops,
        note=f"the printed {box_ap} box AP is of tsbl_released, whose first branch is an S",
    )  # fmt: skip
    released = PaperResult(
        box_ap=box_ap, mask_ap=mask_ap, config=config,
        note=f"the printed {params_m:g} M and {gflops:g} G are of tsbl, whose first branch is a T",
    )  # fmt: skip
    return [
        mask_rcnn_1x(piip("TSBL", resolutions, window=28), meant),
        mask_rcnn_1x(piip("TSBL", resolutions, window=28, branches=RELEASED, label="tsbl_released"), released),
    ]


def vit(letter: str, *, ap: tuple[float, float], params_m: float, gflops: float) -> ExperimentSpec:
    """A single ViT beside them."""
    config = f"mask_rcnn_deit_vit_{letter.lower()}_fpn_1x_coco_bs16"
    paper = PaperResult(box_ap=ap[0], mask_ap=ap[1], params_m=params_m, gflops=gflops, config=config)
    return mask_rcnn_1x(piip(letter, (1024,), window=(14, 14, None)), paper).override(BASELINE)


COCO_ROWS = [
    vit("B", ap=(43.7, 39.7), params_m=90, gflops=463),
    *TSB,
    vit("L", ap=(46.7, 42.5), params_m=308, gflops=1542),
    *SBL,
    *tsbl((1344, 896, 672, 448), box_ap=47.1, mask_ap=41.9, params_m=506, gflops=755),
    *tsbl((1568, 1120, 672, 448), box_ap=48.2, mask_ap=42.9, params_m=507, gflops=861),
    *tsbl((1792, 1568, 1120, 448), box_ap=49.4, mask_ap=44.1, params_m=512, gflops=1535),
]

ROWS = {"coco": COCO_ROWS}

if __name__ == "__main__":
    main(ROWS, experiment="coco_mask_rcnn", description=__doc__ or "")
