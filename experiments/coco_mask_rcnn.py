"""The main detection table of PIIP: Mask R-CNN on COCO, DeiT branches beside single ViTs of equal cost.

    python experiments/coco_mask_rcnn.py --list
    ray job submit --working-dir . -- python experiments/coco_mask_rcnn.py --workers 8 --gpus-per-worker 1

Expect 43.6-46.5 box AP from TSB against 43.7 of ViT-B, 46.5-49.3 from SBL against 46.7 of ViT-L; 8 GPUs, up to a day a row.

TSBL comes twice. The official class builds its first branch from the second one's settings, so the networks behind the printed AP
(`tsbl_released`) have two S branches; the printed cost is that of the network as meant, with a T branch (`tsbl`).
"""

from piip.presets import DEIT, mask_rcnn_1x, piip
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


COCO_ROWS = [
    mask_rcnn_1x(
        piip("B", (1024,), window=(14, 14, None)),
        PaperResult(box_ap=43.7, mask_ap=39.7, params_m=90, gflops=463, config="mask_rcnn_deit_vit_b_fpn_1x_coco_bs16"),
    ).override(BASELINE),
    mask_rcnn_1x(
        piip("TSB", (1120, 896, 448), window=14),
        PaperResult(
            box_ap=43.6,
            mask_ap=38.7,
            params_m=146,
            gflops=243,
            config="mask_rcnn_deit_tsb_1120_896_448_fpn_1x_coco_bs16",
        ),
    ),
    mask_rcnn_1x(
        piip("TSB", (1568, 896, 448), window=14),
        PaperResult(
            box_ap=45.0,
            mask_ap=40.3,
            params_m=147,
            gflops=287,
            config="mask_rcnn_deit_tsb_1568_896_448_fpn_1x_coco_bs16",
        ),
    ),
    mask_rcnn_1x(
        piip("TSB", (1568, 1120, 672), window=14),
        PaperResult(
            box_ap=46.5,
            mask_ap=41.3,
            params_m=149,
            gflops=453,
            config="mask_rcnn_deit_tsb_1568_1120_672_fpn_1x_coco_bs16",
        ),
    ),
    mask_rcnn_1x(
        piip("L", (1024,), window=(14, 14, None)),
        PaperResult(
            box_ap=46.7, mask_ap=42.5, params_m=308, gflops=1542, config="mask_rcnn_deit_vit_l_fpn_1x_coco_bs16"
        ),
    ).override(BASELINE),
    mask_rcnn_1x(
        piip("SBL", (1120, 672, 448), window=28),
        PaperResult(
            box_ap=46.5,
            mask_ap=40.8,
            params_m=493,
            gflops=727,
            config="mask_rcnn_deit_sbl_1120_672_448_fpn_1x_coco_bs16",
        ),
    ),
    mask_rcnn_1x(
        piip("SBL", (1344, 896, 448), window=28),
        PaperResult(
            box_ap=48.3,
            mask_ap=42.7,
            params_m=495,
            gflops=1002,
            config="mask_rcnn_deit_sbl_1344_896_448_fpn_1x_coco_bs16",
        ),
    ),
    mask_rcnn_1x(
        piip("SBL", (1568, 896, 672), window=28),
        PaperResult(
            box_ap=49.3,
            mask_ap=43.7,
            params_m=497,
            gflops=1464,
            config="mask_rcnn_deit_sbl_1568_896_672_fpn_1x_coco_bs16",
        ),
    ),
    *tsbl((1344, 896, 672, 448), box_ap=47.1, mask_ap=41.9, params_m=506, gflops=755),
    *tsbl((1568, 1120, 672, 448), box_ap=48.2, mask_ap=42.9, params_m=507, gflops=861),
    *tsbl((1792, 1568, 1120, 448), box_ap=49.4, mask_ap=44.1, params_m=512, gflops=1535),
]

ROWS = {"coco": COCO_ROWS}

if __name__ == "__main__":
    main(ROWS, experiment="coco_mask_rcnn", description=__doc__ or "")
