"""How many objects training does not see though they are there: cut away by crops and slices, or under a pixel at the network's size."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from piip.data.formats.coco import CocoDataset
from piip.data.transforms.pictures import shown
from piip.data.transforms.recipes import drawn_view

MOST = 1000
"""Images that are looked at, spread over the split: a draw takes about a fifth of a millisecond."""


class CutAway(NamedTuple):
    """Objects in one draw of some images."""

    images: int
    objects: int
    cut: int
    """Of which the view shows too little, or nothing."""
    small: int
    """Less than a pixel wide or high as the network would see them."""

    @property
    def words(self) -> str:
        """For people."""
        share = (self.cut + self.small) / max(self.objects, 1)
        return (
            f"one draw of {self.images} images for training has {self.objects} objects: {self.cut} cut away, {self.small} under a pixel "
            f"({share:.1%} left out of that sample; mosaic and pasting aside)"
        )


def cut_away(split: CocoDataset, *, most: int = MOST) -> CutAway:
    """Counts by boxes, without an image: what epoch 0 draws of a training split, except that masks may lose further objects.

    Args:
        split: Opened for training.
        most: About so many images are looked at.
    """
    images = range(0, len(split), max(1, len(split) // most))
    counts = np.array([_counted(split, index) for index in images]).reshape(-1, 3).sum(axis=0).tolist()
    return CutAway(len(images), *counts)


def _counted(split: CocoDataset, index: int) -> tuple[int, int, int]:
    """Objects of an image, those that are cut away, those that are too small."""
    info, spec = split.infos[index], split.spec
    boxes = split.learned(index).boxes_in(info)
    limits = spec.limits(split.wanted.resolution, training=True)
    view = drawn_view(spec, (info.height, info.width), limits, boxes, np.random.default_rng([0, index]))
    lost = ~shown(view, boxes, split.kept_share)[1]
    seen: Tensor = view.seen_share(boxes) > split.kept_share
    return len(boxes), int((lost & ~seen).sum()), int((lost & seen).sum())
