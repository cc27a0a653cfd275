"""In what the code bases differ that two-stage detectors come from: one table, read by proposals, RoI pooling and losses.

All four share the rest: matching at .7 / .3 and .5 with every object's best anchor positive, 256 anchors half positive, box deltas with
weights 1 and 10 10 5 5, NMS at .7 a level and at `nms_threshold` a class. Where files keep the background (mmdetection and Detectron2
last, Detectron and torchvision first) is the files' matter: piip/weights/names.

Detectron counts pixels: a box of its ends at its last pixel, and widths, areas and overlaps are of x1 - x0 + 1. With ends one pixel
further, as here, its coder, clipping, overlaps and NMS are the ordinary ones; what is left are anchors, and RoIAlign, which it gives
the last pixel.

Left out: mmdetection gives a proposal that is an object's best (of .5 or more) to this object though another overlaps it more, and takes
an object's best anchor from .3 only; Detectron draws negatives with replacement.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from piip.spec import CascadeSpec, TwoStageSpec


@dataclass(frozen=True)
class Dialect:
    """The rules of one code base."""

    rpn_beta: float = 0.0
    """Of the smooth L1 loss of anchors' deltas; 0 is L1."""
    box_beta: float = 0.0
    """The same of proposals' deltas."""
    rpn_normaliser: Literal["sampled", "wanted"] = "sampled"
    """What both losses of anchors are divided by: those that were sampled, or 256 an image, if there are so many or not."""
    anchors: Literal["exact", "rounded", "pixels"] = "exact"
    """`rounded` to whole pixels (torchvision); `pixels`: grown from a rounded cell, centred in it (Detectron)."""
    anchors_inside: bool = False
    """Anchors that reach out of the image's content are neither positive nor negative."""
    training_proposals: int = 1
    """Proposals in training, times `rpn_post_nms`."""
    pooled: bool = False
    """In training the best proposals of all images of a micro batch together, instead of each image's."""
    ties_suppress: bool = False
    """NMS also drops what overlaps by the threshold itself."""
    aligned: bool = True
    """RoIAlign takes pixels' centres to be at halves; mask targets are cut so, too."""
    sampling_ratio: int = -1
    """Samples a bin and side; -1: as many as the box has cells there."""
    last_pixel: bool = False
    """RoIAlign is given boxes that end at their last pixel."""
    level_eps: tuple[float, float] = (1e-6, 0.0)
    """Added to a box's side in units of 56 pixels, and to its logarithm, before it is rounded down to a level."""
    soft_masks: bool = False
    """Mask targets keep the values between 0 and 1 that cutting gives."""

    zero_border: bool = False
    """Keypoint maps are doubled by a fixed transposed convolution, for which zeros lie around them, instead of bilinearly."""

    def nms(self, threshold: float) -> float:
        """The threshold that overlaps have to be above of for torchvision's NMS to drop a box."""
        return math.nextafter(threshold, 0) if self.ties_suppress else threshold


DIALECTS = {
    "mmdet": Dialect(),
    "detectron2": Dialect(rpn_normaliser="wanted", level_eps=(4e-8, 0.0)),
    "detectron": Dialect(
        rpn_beta=1 / 9, box_beta=1.0, rpn_normaliser="wanted", anchors="pixels", anchors_inside=True, pooled=True, ties_suppress=True,
        aligned=False, sampling_ratio=2, last_pixel=True, level_eps=(4e-6, 0.0), zero_border=True,
    ),
    "torchvision": Dialect(
        rpn_beta=1 / 9, box_beta=1 / 9, anchors="rounded", training_proposals=2, aligned=False, sampling_ratio=2,
        level_eps=(0.0, 1e-6), soft_masks=True,
    ),
}  # fmt: skip
CASCADE = replace(DIALECTS["mmdet"], rpn_beta=1 / 9, box_beta=1.0, anchors_inside=True, training_proposals=2)
"""mmdetection's Cascade R-CNN configurations."""


def dialect_of(spec: TwoStageSpec) -> Dialect:
    """The rules a head goes by."""
    return CASCADE if isinstance(spec, CascadeSpec) else DIALECTS[spec.dialect]
