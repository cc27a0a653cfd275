"""Which resolutions should a PIIP spend its FLOPs on? Box AP against compute.

    python experiments/sweep_resolutions.py --scale pico                        # two CPU cores, ten minutes, data it makes
    ray job submit --working-dir . -- python experiments/sweep_resolutions.py   # a cluster; COCO where $PIIP_DATA/coco is

At pico scale two combinations of branches x three resolution tuples, beside a single-branch ViT and a ResNet-18. At coco scale
the paper's TSB and SBL rows: expect 43.6-46.5 box AP for TSB; 8 GPUs, up to a day a row.
"""

from piip.presets import mask_rcnn_1x, mask_rcnn_pico, pico, piip
from piip.spec import CNNSpec, PaperResult
from piip.sweeps.cli import main

# steps that take 80 to 110 s on one of two busy cores, so that trials compare at equal wall time
PICO_STEPS = [
    (pico("TB", (192, 128)), 94),
    (pico("TB", (256, 128)), 65),
    (pico("TB", (256, 192)), 50),
    (pico("TSB", (192, 128, 128)), 80),
    (pico("TSB", (256, 128, 128)), 64),
    (pico("TSB", (256, 192, 128)), 54),
    (pico("B", (192,)), 84),
    (CNNSpec(arch="resnet18", resolution=192), 90),
]

PICO_ROWS = [mask_rcnn_pico(backbone, steps=steps) for backbone, steps in PICO_STEPS]

COCO_ROWS = [
    mask_rcnn_1x(
        piip("TSB", (1120, 896, 448), window=14), PaperResult(box_ap=43.6, mask_ap=38.7, params_m=146, gflops=243)
    ),
    mask_rcnn_1x(
        piip("TSB", (1568, 896, 448), window=14), PaperResult(box_ap=45.0, mask_ap=40.3, params_m=147, gflops=287)
    ),
    mask_rcnn_1x(
        piip("TSB", (1568, 1120, 672), window=14), PaperResult(box_ap=46.5, mask_ap=41.3, params_m=149, gflops=453)
    ),
    mask_rcnn_1x(piip("TSB", (1344, 896, 448), window=14)),
    mask_rcnn_1x(piip("TSB", (1120, 672, 448), window=14)),
    mask_rcnn_1x(
        piip("SBL", (1120, 672, 448), window=28), PaperResult(box_ap=46.5, mask_ap=40.8, params_m=493, gflops=727)
    ),
    mask_rcnn_1x(
        piip("SBL", (1344, 896, 448), window=28), PaperResult(box_ap=48.3, mask_ap=42.7, params_m=495, gflops=1002)
    ),
    mask_rcnn_1x(
        piip("SBL", (1568, 896, 672), window=28), PaperResult(box_ap=49.3, mask_ap=43.7, params_m=497, gflops=1464)
    ),
    mask_rcnn_1x(piip("SBL", (1568, 1120, 672), window=28), PaperResult(box_ap=50.0, mask_ap=44.4)),
]

ROWS = {"pico": PICO_ROWS, "coco": COCO_ROWS}

if __name__ == "__main__":
    main(ROWS, experiment="sweep_resolutions", description=__doc__ or "")
