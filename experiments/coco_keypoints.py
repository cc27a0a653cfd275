"""Where are an object's corners? Keypoint R-CNN on drawn shapes: box and keypoint AP (OKS) of a PIIP and a ResNet-18.

    python experiments/coco_keypoints.py                     # two CPU cores, data it makes, about ten minutes a row on both

Four keypoints an object: its highest, rightmost, lowest and leftmost point. COCO's persons, or files of your own, are read by the same
rows: --kind keypoints --data coco --set model.head.num_keypoints=17.
"""

from piip.presets import detector_pico, pico
from piip.spec import CNNSpec
from piip.sweeps.cli import main

ROWS = {
    "pico": [
        detector_pico("keypoint_rcnn", backbone, steps=1200)
        for backbone in (pico("TB", (192, 128)), CNNSpec(arch="resnet18", resolution=192))
    ]
}

if __name__ == "__main__":
    main(ROWS, experiment="coco_keypoints", description=__doc__ or "")
