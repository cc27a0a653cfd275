"""Large images through a network of one input size: crop by crop, logits averaged where crops overlap."""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Window(NamedTuple):
    """Square crops and how far they are apart, in pixels."""

    crop: int
    stride: int


def slide(logits_of: Callable[[Tensor], Tensor], image: Tensor, window: Window) -> Tensor:
    """Logits (classes, h, w) of an image, as mmsegmentation's slide inference has them.

    Every crop is exactly `window.crop` high and wide: the last ones end with the image, and an image that is smaller is zero padded,
    right and below (mmsegmentation would show the network a smaller one).

    Args:
        logits_of: (1, 3, crop, crop) -> (classes, crop, crop).
        image: (3, h, w), normalised.
        window: Crop and stride.
    """
    height, width = image.shape[1:]
    crop = window.crop
    padded = F.pad(image, (0, max(crop - width, 0), 0, max(crop - height, 0)))
    total, count = None, padded.new_zeros(padded.shape[1:])
    for y in starts(padded.shape[1], window):
        for x in starts(padded.shape[2], window):
            logits = logits_of(padded[None, :, y : y + crop, x : x + crop])
            if total is None:
                total = logits.new_zeros((len(logits), *padded.shape[1:]))
            total[:, y : y + crop, x : x + crop] += logits
            count[y : y + crop, x : x + crop] += 1
    assert total is not None
    return (total / count)[:, :height, :width]


def starts(length: int, window: Window) -> list[int]:
    """Where crops begin along a side of `length` >= crop: a stride apart, the last one at the end."""
    last = length - window.crop
    return [min(start, last) for start in range(0, last + window.stride, window.stride)]
