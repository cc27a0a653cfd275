"""Crops, RandAugment, mixup and CutMix for image classification. No hidden randomness: draws are arguments or come from a given generator.

What is drawn and how much follows the published recipe (timm's `create_transform` and `Mixup`). timm's own classes draw from the
process's generators, which loading threads share, so only its operations on pixels are called here.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

RATIOS = (3 / 4, 4 / 3)
"""Least and greatest width / height of a training crop."""
ERASED, ERASED_RATIOS = (0.02, 1 / 3), (0.3, 1 / 0.3)
"""Least and greatest share of the area that random erasing takes, and height / width."""

# B batch, C channels, H W height and width in pixels, K classes


def middle(image: Tensor, side: int, crop_ratio: float, interpolation: str) -> Tensor:
    """(3, H, W) uint8 -> (3, side, side): the short side becomes side / crop_ratio, then the middle is cut out."""
    height, width = image.shape[1:]
    short = round(side / crop_ratio)
    factor = short / min(height, width)
    size = [short if length == min(height, width) else max(short, int(length * factor)) for length in (height, width)]
    return F.center_crop(F.resize(image, size, InterpolationMode(interpolation), antialias=True), [side, side])


def random_crop_of(
    height: int, width: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a part of an image: a share of its area drawn from `scale`, its shape from `RATIOS`.

    Where ten draws do not fit into the image, the largest part in the middle whose shape is allowed.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    ratio = min(max(width / height, RATIOS[0]), RATIOS[1])
    h, w = min(height, round(width / ratio)), min(width, round(height * ratio))
    return (height - h) // 2, (width - w) // 2, h, w


def crop(image: Tensor, box: tuple[int, int, int, int], side: int, interpolation: str) -> Tensor:
    """The part (top, left, height, width) of (3, H, W) uint8, resized to (3, side, side)."""
    return F.resized_crop(image, *box, [side, side], InterpolationMode(interpolation), antialias=True)


def erased(image: Tensor, rng: np.random.Generator) -> Tensor:
    """A normalised image (3, H, W) with noise of the normal distribution in a rectangle (Zhong et al. 2020, timm's `pixel` mode).

    A share of the area drawn from `ERASED`, its shape from `ERASED_RATIOS`; where ten draws do not fit in, nothing is erased.
    """
    height, width = image.shape[1:]
    flattest, steepest = map(math.log, ERASED_RATIOS)
    for _ in range(10):
        area = height * width * rng.uniform(*ERASED)
        ratio = math.exp(rng.uniform(flattest, steepest))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < height and w < width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            image = image.clone()
            image[:, top : top + h, left : left + w] = torch.from_numpy(
                rng.standard_normal((3, h, w), dtype=np.float32)
            )
            return image
    return image


@dataclass(frozen=True)
class Policy:
    """What RandAugment does: `ops` operations drawn with replacement, each done with even chances at about `magnitude` of 10."""

    magnitude: float
    ops: int = 2
    deviation: float = 0.0
    """Standard deviation of the magnitude, which is drawn anew for every operation and kept within 0..10."""

    @classmethod
    def of(cls, text: str) -> "Policy":
        """Timm's words for it, as ImageNetSpec.rand_augment allows them: `rand-m9-mstd0.5-inc1`."""
        parts = dict(re.findall(r"-(m|n|mstd)(\d+(?:\.\d+)?)", text))
        return cls(float(parts["m"]), int(parts.get("n", 2)), float(parts.get("mstd", 0)))


OPERATIONS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd",
    "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing", "ShearX", "ShearY",
    "TranslateXRel", "TranslateYRel",
)  # fmt: skip
"""timm's names; those of policies with `inc1`, whose effect grows with the magnitude."""


def rand_augment(image: Tensor, policy: Policy, fill: Sequence[float], rng: np.random.Generator) -> Tensor:
    """RandAugment of (3, H, W) uint8; `fill` (RGB, 0..255) is the colour of what comes in from outside."""
    changed = Image.fromarray(image.permute(1, 2, 0).numpy())
    outside = {"fillcolor": tuple(round(c) for c in fill), "resample": Image.Resampling.BICUBIC}
    for name in rng.choice(OPERATIONS, policy.ops):
        if rng.random() < 0.5:
            magnitude = min(max(rng.normal(policy.magnitude, policy.deviation), 0.0), 10.0)
            sign = 1.0 if rng.random() < 0.5 else -1.0
            changed = NAME_TO_OP[name](changed, *arguments(name, magnitude, sign), **outside)
    return torch.from_numpy(np.array(changed)).permute(2, 0, 1).contiguous()


def arguments(name: str, magnitude: float, sign: float) -> tuple[float, ...]:
    """What timm's operation is called with at a magnitude of 0..10; `sign` (1 or -1) is the direction, where it has one."""
    part = magnitude / 10
    match name:
        case "AutoContrast" | "Equalize" | "Invert":
            return ()
        case "Rotate":
            return (sign * part * 30,)  # degrees
        case "PosterizeIncreasing":
            return (4 - int(part * 4),)  # bits that stay
        case "SolarizeIncreasing":
            return (256 - min(256, int(part * 256)),)  # what is brighter is inverted
        case "SolarizeAdd":
            return (min(128, int(part * 110)),)
        case "ShearX" | "ShearY":
            return (sign * part * 0.3,)
        case "TranslateXRel" | "TranslateYRel":
            return (sign * part * 0.45,)  # of the side
        case _:  # colour, contrast, brightness, sharpness: 1 changes nothing
            return (max(0.1, 1 + sign * part * 0.9),)


def mix(
    images: Tensor, labels: Tensor, *, mixup: float, cutmix: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mixes each image of a batch with its opposite (the first with the last), all by one draw.

    Args:
        images: (B, C, H, W), normalised.
        labels: (B, K) probabilities.
        mixup: Alpha of Beta(alpha, alpha), from which the share of the image itself is drawn; 0: no mixup.
        cutmix: The same for CutMix, where the share is of the area and the rest is cut out of the other image; 0: none. With both,
            the batch takes one of the two by even chances.
        rng: Where all draws come from.

    Returns:
        Images and labels, mixed alike.
    """
    # all draws always happen, so that one setting does not shift another's
    cuts = rng.random() < 0.5 if mixup and cutmix else bool(cutmix)
    alpha = cutmix if cuts else mixup
    place = rng.random(2)
    if not alpha:
        return images, labels
    share = float(rng.beta(alpha, alpha))
    others = images.flip(0)
    if cuts:
        height, width = images.shape[-2:]
        top, bottom, left, right = cut_of(height, width, share, place)
        images = images.clone()
        images[..., top:bottom, left:right] = others[..., top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)  # what was outside is not there
    else:
        images = images * share + others * (1 - share)
    return images, labels * share + labels.flip(0) * (1 - share)


def cut_of(height: int, width: int, share: float, place: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the part that CutMix replaces: of the image's shape, its centre at `place` (2,) in 0..1."""
    side = math.sqrt(1 - share)
    bounds = []
    for length, where in zip((height, width), place, strict=True):
        centre, half = int(length * where), int(length * side) // 2
        bounds += [max(centre - half, 0), min(centre + half, length)]
    return bounds[0], bounds[1], bounds[2], bounds[3]
