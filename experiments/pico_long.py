"""Four networks, about ten minutes each on two cores: does a pico PIIP keep up with a ResNet-18, and what do pretrained branches bring?

    python experiments/pico_long.py --workers 2
    python experiments/pico_long.py --workers 2 --set train.precision=bf16 --set speed.heads=bf16 --set speed.interactions=bf16

The second form is for a processor that multiplies bf16 (AVX512-BF16, AMX): 1.2 times the images a second there, far fewer elsewhere.
Every row takes the same steps and is scored on photographs that training never saw. The ResNet-18 and one PIIP start from scratch; the
ViT and the other PIIP's branches from weights that experiments/pretrain_pico.py makes on generated glyphs.
"""

from piip.presets import mask_rcnn_pico, pico
from piip.spec import CNNSpec
from piip.sweeps.cli import main

STEPS = 1200

ROWS = {
    "pico": [
        mask_rcnn_pico(pico("TB", (192, 128)), steps=STEPS),
        mask_rcnn_pico(CNNSpec(arch="resnet18", resolution=192), steps=STEPS),
        mask_rcnn_pico(pico("TB", (192, 128), pretrained=False), steps=STEPS),
        mask_rcnn_pico(pico("B", (192,)), steps=STEPS),
    ]
}

if __name__ == "__main__":
    main(ROWS, experiment="pico_long", description=__doc__ or "")
