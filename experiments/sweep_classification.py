"""Which network classifies best for its compute: a PIIP, a single ViT or a ResNet-18?

    python experiments/sweep_classification.py --scale pico --workers 2            # two CPU cores, single objects of data it makes
    python experiments/sweep_classification.py --train-images my/train --val-images my/val

At pico scale all three take the same steps on the same images; the branches of PIIP and ViT start from weights made on generated
glyphs, the ResNet-18 from scratch. PIIP and ViT are read by the mean of their patches, the ResNet by the mean of its coarsest map. At
imagenet scale the published TSB and SBL rows, see imagenet.py.

Seen on two cores (2240 training crops, 640 of other photographs to score on): ResNet-18 .928 top-1 after these 1000 steps, in 7 minutes;
PIIP-TB 64/48 .853 after 2400 steps, in 9. Half of what the PIIP gets wrong are tilted squares taken for hexagons, or the reverse.
"""

from piip.catalogue.rows import load_tables
from piip.home import shipped
from piip.presets import classifier_pico, pico
from piip.spec import CNNSpec
from piip.sweeps.cli import main

STEPS = 1000

PICO_ROWS = [
    classifier_pico(pico("TB", (64, 48)), steps=STEPS),
    classifier_pico(pico("B", (64,)), steps=STEPS),
    classifier_pico(CNNSpec(arch="resnet18", resolution=64), steps=STEPS),
]

ROWS = {"pico": PICO_ROWS, **load_tables(shipped("experiments") / "imagenet.py")}

if __name__ == "__main__":
    main(ROWS, experiment="sweep_classification", description=__doc__ or "")
