"""Which branches and resolutions should a segmenter spend its FLOPs on? Mean IoU against compute.

    python experiments/sweep_segmentation.py                 # two CPU cores, data it makes, about 8 minutes a row and core

Two combinations of branches x two resolution tuples, beside a single-branch ViT and a ResNet-18: UperNet as on ADE20K, sliding over
the image, on drawn shapes and what is behind them. The paper's rows, InternViT-6B and H6B on ADE20K: experiments/ade20k_upernet.py.

Seen on two cores: PIIP-TSB 192/128/128 .404 mIoU, TB 192/128 .356, TB 160/96 .317, TSB 160/96/96 .316, ViT-B .287, ResNet-18 .240.
TB 160/96 goes on to .53 in 1750 steps (--set train.steps=1750). More in experiments/RESULTS.md.
"""

from piip.presets import pico, upernet_pico
from piip.spec import CNNSpec
from piip.sweeps.cli import main

STEPS = 800

BACKBONES = [
    pico("TB", (160, 96)),
    pico("TB", (192, 128)),
    pico("TSB", (160, 96, 96)),
    pico("TSB", (192, 128, 128)),
    pico("B", (192,)),
    CNNSpec(arch="resnet18", resolution=192),
]

ROWS = {"pico": [upernet_pico(backbone, steps=STEPS) for backbone in BACKBONES]}

if __name__ == "__main__":
    main(ROWS, experiment="sweep_segmentation", description=__doc__ or "")
