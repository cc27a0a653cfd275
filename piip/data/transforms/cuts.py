"""Masks cut out of an image (piip/data/runs.py) to the size that the network sees, one by one, by the pixels they have.

As if the mask of the whole image were resized: bilinear with antialiasing in PyTorch's arithmetic for bytes, horizontally and then
vertically, the result of either rounded to 0..255. So the outcome does not depend on the processor, as PyTorch's own does.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from piip.contracts import Size
from piip.data.runs import Cut
from piip.ops.mask_runs import runs_of

BLOCK = 64
"""Output pixels computed at once: few enough that the weights, zero but for a band, are mostly not."""

# I O pixels of an axis before and after, K pixels before that one after is made of, M pixels of the other axis


class Filter(NamedTuple):
    """What each pixel of an axis is made of."""

    starts: NDArray[np.int64]
    """(O,) the first pixel before."""
    weights: NDArray[np.float32]
    """(O, K) whole numbers that add up to about 2**bits; zeros where fewer are needed."""
    bits: int


@lru_cache(maxsize=16)
def filter_of(before: int, after: int) -> Filter:
    """A triangle as wide as two pixels of the smaller of the two sizes, in PyTorch's fixed point."""
    scale = before / after
    support = max(scale, 1.0)
    centres = scale * (np.arange(after) + 0.5)
    starts = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    counts = np.minimum((centres + support + 0.5).astype(np.int64), before) - starts
    places = np.arange(int(counts.max()))
    distances = np.abs((places + starts[:, None] - centres[:, None] + 0.5) / support)
    weights = np.where(places < counts[:, None], np.maximum(1 - distances, 0), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    bits = next(b for b in range(22) if b == 21 or int(0.5 + weights.max() * 2 ** (b + 1)) >= 2**15)
    return Filter(starts, (weights * 2**bits + 0.5).astype(np.int64).astype(np.float32), bits)


def resized(cuts: Iterable[Cut], before: Size, after: Size) -> Tensor:
    """(R, 4) runs (piip/ops/mask_runs.py) of masks resized: a pixel belongs to the object that covers half of it."""
    found = [torch.zeros(0, 4, dtype=torch.int32)]
    for number, cut in enumerate(cuts):
        if cut.mask.size:
            left, covered = _along(cut.mask.T, cut.left, before[1], after[1], full=1)
            top, covered = _along(covered.T, cut.top, before[0], after[0], full=255)
            runs = runs_of(torch.from_numpy(covered >= 128)[None])
            found.append(runs + torch.tensor([number, top, left, left], dtype=torch.int32))
    return torch.cat(found)


def _along(part: NDArray[np.uint8], first: int, before: int, after: int, *, full: int) -> tuple[int, NDArray[np.uint8]]:
    """A part of an axis resized: where it begins afterwards, and coverage (o, M) of 0..255.

    Args:
        part: (i, M) of 0..full, pixels `first` to `first + i` of the axis; outside is nothing.
        first: Of the part.
        before: Pixels of the whole axis.
        after: The same, afterwards.
        full: What a covered pixel has.
    """
    if before == after:
        return first, part * np.uint8(255 // full)
    starts, weights, bits = filter_of(before, after)
    width = weights.shape[1]
    # pixels afterwards that are made of some of the part
    begin = int(np.searchsorted(starts, first - width, side="right"))
    end = int(np.searchsorted(starts, first + len(part)))
    found = np.empty((end - begin, part.shape[1]), dtype=np.uint8)
    for block in range(begin, end, BLOCK):
        stop = min(block + BLOCK, end)
        low = max(int(starts[block]), first)
        high = min(int(starts[stop - 1]) + width, first + len(part))
        places = starts[block:stop, None] + np.arange(width) - low
        rows, taken = np.nonzero((places >= 0) & (places < high - low))
        # sums of zeros and ones times weights are exact in 32 bits, of bytes in 64
        matrix = np.zeros((stop - block, high - low), dtype=np.float32 if full == 1 else np.float64)
        matrix[rows, places[rows, taken]] = weights[block:stop][rows, taken]
        sums = (matrix @ part[low - first : high - first].astype(matrix.dtype)).astype(np.int64) * (255 // full)
        found[block - begin : stop - begin] = np.minimum((sums + (1 << (bits - 1))) >> bits, 255)
    return begin, found
