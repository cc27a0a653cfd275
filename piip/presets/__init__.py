"""The paper's words: branch letters, PIIP combinations, detector and schedule presets. Imports no torch."""

from piip.presets.combine import each_branch, piip, speedup
from piip.presets.families import (
    AUGREG,
    BEITV2,
    CONVNEXT,
    DEIT,
    DEIT_384,
    DINOV2,
    IMAGENET_MEAN,
    IMAGENET_PIXELS,
    IMAGENET_STD,
    INTERNVIT,
    MAE,
    UNIPERCEIVER,
)
from piip.presets.pico import (
    PICO,
    PICO_HEAD,
    PICO_INTERACTION,
    PICO_UPERNET,
    classifier_pico,
    mask_rcnn_pico,
    pico,
    upernet_pico,
)
from piip.presets.recipes import classifier_20ep, dino, mask_rcnn_1x, upernet_80k

__all__ = [
    "AUGREG",
    "BEITV2",
    "CONVNEXT",
    "DEIT",
    "DEIT_384",
    "DINOV2",
    "IMAGENET_MEAN",
    "IMAGENET_PIXELS",
    "IMAGENET_STD",
    "INTERNVIT",
    "MAE",
    "PICO",
    "PICO_HEAD",
    "PICO_INTERACTION",
    "PICO_UPERNET",
    "UNIPERCEIVER",
    "classifier_20ep",
    "classifier_pico",
    "dino",
    "each_branch",
    "mask_rcnn_1x",
    "mask_rcnn_pico",
    "pico",
    "piip",
    "speedup",
    "upernet_80k",
    "upernet_pico",
]
