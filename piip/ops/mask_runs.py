"""Masks of an image's objects as runs along rows: some kilobytes an object where an array has as many bytes as the image pixels.

Made by data sets, read by the losses that learn masks, which make arrays of a few objects at a time.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from piip.contracts import Size

PIXELS_AT_ONCE = 2**24
"""Of the arrays that `arrays_of` makes at once, 13 objects at 1120 x 1120: 16 MB, 64 as the floats that RoIAlign takes."""

# R runs, n objects of an image, H W height and width in pixels


def runs_of(masks: Tensor) -> Tensor:
    """(n, H, W), nonzero where an object is -> (R, 4) int32: object, row, first column, column behind the last; in order."""
    count, height, width = masks.shape
    inside = torch.zeros(count, height, width + 2, dtype=torch.int8, device=masks.device)
    inside[..., 1:-1] = masks != 0
    edges = inside.diff(dim=-1)
    starts, ends = (edges == 1).nonzero(), (edges == -1).nonzero()
    return torch.cat([starts, ends[:, 2:]], dim=1).int()


def have_pixels(runs_R4: Tensor, count: int) -> Tensor:
    """(count,) bool: objects that a run is there of."""
    found = torch.zeros(count, dtype=torch.bool, device=runs_R4.device)
    found[runs_R4[:, 0].long()] = True
    return found


def kept(runs_R4: Tensor, keep: Tensor) -> Tensor:
    """The runs of some objects, which are numbered anew; `keep` is (n,) bool."""
    objects = runs_R4[:, 0].long()
    numbers = (keep.cumsum(0) - 1).int()
    return torch.cat([numbers[objects][:, None], runs_R4[:, 1:]], dim=1)[keep[objects]]


def flipped(runs_R4: Tensor, width: int) -> Tensor:
    """Left becomes right in images of `width` pixels."""
    number, row, start, end = runs_R4.unbind(dim=1)
    return torch.stack([number, row, width - end, width - start], dim=1)


def moved(runs_R4: Tensor, down: int, right: int) -> Tensor:
    """The same masks as many pixels further down and to the right."""
    return runs_R4 + torch.tensor([0, down, right, right], dtype=runs_R4.dtype, device=runs_R4.device)


def array_of(runs_R4: Tensor, objects: Tensor, size: Size) -> Tensor:
    """(K, *size) int8 of 0 and 1: the masks of some objects, (K,) int64 numbers that rise."""
    height, width = size
    number, row, start, end = runs_R4.long().T.contiguous()
    wanted = torch.isin(number, objects)
    line = (torch.searchsorted(objects, number) * height + row) * (width + 1)
    # +1 where ones begin, -1 behind where they end, which is never where others begin: the running sum is the mask
    steps = torch.zeros(len(objects) * height * (width + 1), dtype=torch.int8, device=runs_R4.device)
    steps[(line + start)[wanted]] = 1
    steps[(line + end)[wanted]] = -1
    return steps.view(len(objects), height, width + 1).cumsum(dim=2, dtype=torch.int8)[..., :width]


def arrays_of(runs_R4: Tensor, objects: Tensor, size: Size) -> Iterator[tuple[Tensor, Tensor]]:
    """The masks of some objects as arrays, a few at a time: these objects' numbers (k,), and (k, *size) int8 of 0 and 1.

    Args:
        runs_R4: Of all objects of an image.
        objects: (K,) int64 numbers of objects, rising.
        size: Height and width of the image.
    """
    at_once = max(PIXELS_AT_ONCE // (size[0] * size[1]), 1)
    for some in objects.split(at_once):
        yield some, array_of(runs_R4, some, size)
