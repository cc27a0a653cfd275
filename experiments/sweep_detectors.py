"""Which detector for the same backbone and the same time? Box AP of five heads on one PIIP.

    python experiments/sweep_detectors.py                    # two CPU cores, data it makes, about ten minutes a row on both

Faster R-CNN (boxes alone), Mask R-CNN, Cascade R-CNN with and without masks, and RetinaNet, on PIIP-TB 192/128. Steps are such that
all rows take about the time of Mask R-CNN's 1200. DINO's pico rows are in coco_dino.py.
"""

from piip.presets import detector_pico, pico
from piip.sweeps.cli import main

STEPS = {"faster_rcnn": 1450, "mask_rcnn": 1200, "cascade_rcnn": 1050, "cascade_mask_rcnn": 850, "retinanet": 1600}

ROWS = {"pico": [detector_pico(head, pico("TB", (192, 128)), steps=steps) for head, steps in STEPS.items()]}

if __name__ == "__main__":
    main(ROWS, experiment="sweep_detectors", description=__doc__ or "")
