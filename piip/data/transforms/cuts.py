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

BLOCK = 64
"""Output pixels computed at once: few enough that the weights, zero but for a band, are mostly not."""
FEW = 5
"""Pixels before that one after is made of, up to which they are added up one by one: enlarged, or down to half the size."""

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
            found.append(
                torch.from_numpy(_runs_of(covered >= 128) + np.array([number, top, left, left], dtype=np.int32))
            )
    return torch.cat(found)


def _runs_of(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """What `piip.ops.mask_runs.runs_of` gives of a single (H, W) mask; without making a mask of its size several times."""
    inside = np.zeros((mask.shape[0], mask.shape[1] + 2), dtype=np.bool_)
    inside[:, 1:-1] = mask
    edges = np.flatnonzero(inside[:, 1:] != inside[:, :-1]).reshape(-1, 2)  # where a run starts, where it ends
    rows, columns = np.divmod(edges, mask.shape[1] + 1)
    return np.stack([np.zeros_like(rows[:, 0]), rows[:, 0], *columns.T], axis=1).astype(np.int32)


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
    if width <= FEW:
        sums = _few(part, starts[begin:end] - first, weights[begin:end].astype(np.int32)) * (255 // full)
        return begin, np.minimum((sums + (1 << (bits - 1))) >> bits, 255).astype(np.uint8)
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


def _few(part: NDArray[np.uint8], starts: NDArray[np.int64], weights: NDArray[np.int32]) -> NDArray[np.int32]:
    """(o, M) weighted sums of the few rows of `part` that begin at `starts` (o,); rows outside it are zero.

    The sums are below 2**25, whole numbers.
    """
    width = weights.shape[1]
    rows = np.zeros((len(part) + 2 * (width - 1), part.shape[1]), dtype=np.uint8)
    rows[width - 1 : width - 1 + len(part)] = part
    sums = np.zeros((len(starts), part.shape[1]), dtype=np.int32)
    for k in range(width):
        sums += rows[starts + (width - 1 + k)] * weights[:, k, None]
    return sums
