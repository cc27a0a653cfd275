"""From an image and its label map to what a network sees, as mmsegmentation's ADE20K recipe does. Draws come from a generator argument.

Label maps are never blended: every change of theirs is a copy of pixels, nearest neighbour where sizes change.
"""

import numpy as np
import torch
import torch.nn.functional as nnF
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from piip.contracts import IGNORE

# H W height and width in pixels

ASPECT_LIMIT = 4
"""Long side over short side from which training limits the long one (the recipe's scale is 2048 x 512)."""
CROPS_TRIED = 10
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32, (0.5, 1.5), (0.5, 1.5), 18 / 180
"""Summand in 0..255; factors; part of the colour wheel (18 of OpenCV's 180 steps). Each is changed one time in two."""


def resized_size(height: int, width: int, short: float, long: float = float("inf")) -> tuple[int, int]:
    """Height and width with the proportions kept: the short side is `short`, unless the long one would pass `long`."""
    factor = min(short / min(height, width), long / max(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W) to `size`, nearest at the pixels' centres, where a bilinear image of that size has its own."""
    return F.resize(labels[None], list(size), interpolation=InterpolationMode.NEAREST_EXACT)[0]


def random_crop(
    image: Tensor, labels: Tensor, side: int, rng: np.random.Generator, *, class_share: float
) -> tuple[Tensor, Tensor]:
    """A square of `side` pixels (less where the image is smaller), drawn anew while one class covers too much of it.

    Args:
        image: (3, H, W).
        labels: (H, W).
        side: Of the square.
        rng: Two draws a try.
        class_share: The most that one class may have of the labelled pixels; also one class alone is too much.
    """
    height, width = labels.shape
    top = left = 0
    for _ in range(CROPS_TRIED):
        top, left = (int(rng.integers(0, max(length - side, 0) + 1)) for length in (height, width))
        counts = torch.bincount(labels[top : top + side, left : left + side].flatten(), minlength=IGNORE + 1)
        counts[IGNORE] = 0
        if (counts > 0).sum() > 1 and counts.max() < class_share * counts.sum():
            break
    return image[:, top : top + side, left : left + side], labels[top : top + side, left : left + side]


def photometric(image: Tensor, rng: np.random.Generator) -> Tensor:
    """(3, H, W) uint8 with brightness, contrast, saturation and hue a little off, each one time in two.

    The number of draws is always the same. Saturation and hue are torchvision's, brightness adds and contrast multiplies.
    """
    changed = rng.random(4) < 0.5
    summand, hue = rng.uniform(-BRIGHTNESS, BRIGHTNESS), rng.uniform(-HUE, HUE)
    contrast, saturation = rng.uniform(*CONTRAST), rng.uniform(*SATURATION)
    contrast_first = rng.random() < 0.5
    if changed[0]:
        image = _scaled(image, 1.0, summand)
    if changed[1] and contrast_first:
        image = _scaled(image, contrast, 0.0)
    if changed[2]:
        image = F.adjust_saturation(image, saturation)
    if changed[3]:
        image = F.adjust_hue(image, hue)
    if changed[1] and not contrast_first:
        image = _scaled(image, contrast, 0.0)
    return image


def pad_square(image: Tensor, labels: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """A normalised image (3, h, w) and its labels (h, w), right and below up to `side`: zeros, and IGNORE."""
    below, right = side - labels.shape[0], side - labels.shape[1]
    return nnF.pad(image, (0, right, 0, below)), nnF.pad(labels, (0, right, 0, below), value=IGNORE)


def _scaled(image: Tensor, factor: float, summand: float) -> Tensor:
    """uint8, cut to 0..255."""
    return (image.float() * factor + summand).clamp(0, 255).to(torch.uint8)
