"""Which resolutions should a PIIP spend its FLOPs on? Box AP against compute.

    python experiments/sweep_resolutions.py --scale pico                        # two CPU cores, ten minutes, data it makes
    ray job submit --working-dir . -- python experiments/sweep_resolutions.py   # a cluster; COCO where $PIIP_DATA/coco is

At pico scale two combinations of branches x three resolution tuples, beside a single-branch ViT and a ResNet-18. At coco scale
the paper's TSB and SBL rows: expect 43.6-46.5 box AP for TSB; 8 GPUs, up to a day a row.
"""

from piip.presets import SBL, SBL_LARGEST, TSB, mask_rcnn_1x, mask_rcnn_pico, pico, piip
from piip.spec import CNNSpec
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
    *TSB,
    *(mask_rcnn_1x(piip("TSB", sides, window=14)) for sides in ((1344, 896, 448), (1120, 672, 448))),
    *SBL,
    SBL_LARGEST,
]

ROWS = {"pico": PICO_ROWS, "coco": COCO_ROWS}

if __name__ == "__main__":
    main(ROWS, experiment="sweep_resolutions", description=__doc__ or "")
