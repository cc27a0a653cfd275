"""Masks of objects cut out of their images, by way of COCO's run lengths: no object takes the memory of a whole image.

Runs go down the columns of an image, left to right: first the length of a run of zeros (perhaps none), then of ones, in turns.
"""

from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

# H W height and width in pixels, R runs


class Cut(NamedTuple):
    """The part of a mask that has all its ones."""

    mask: NDArray[np.uint8]
    """(h, w) of 0 and 1; (0, 0) of a mask without a pixel. Rows without one may be among them."""
    top: int
    left: int


def runs_of(counts: str | bytes | list[int]) -> NDArray[np.int64] | None:
    """(R,) run lengths of a COCO RLE, compressed or not; None where the text is none.

    Five bits a character, least first; bit 5: more follows; bit 4 of the last: a negative number. From the fourth run on it is the
    difference to the run two before.
    """
    if isinstance(counts, list):
        return np.array(counts, dtype=np.int64)
    characters = np.frombuffer(
        counts if isinstance(counts, bytes) else counts.encode("utf-8", "surrogatepass"), dtype=np.uint8
    )
    chunks = characters.astype(np.int64) - 48
    last = (chunks & 32) == 0
    if not len(chunks):
        return chunks
    if not last[-1] or chunks.min() < 0 or chunks.max() > 63:
        return None
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 12:  # of sixty bits, which no image has
        return None
    shifts = 5 * (np.arange(len(chunks)) - np.repeat(starts, lengths))
    values = np.add.reduceat((chunks & 31) << shifts, starts)
    values -= np.where(chunks[ends] & 16, np.int64(1) << (5 * lengths), 0)
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    return values


def encoded(segmentation: Any, height: int, width: int) -> NDArray[np.int64]:
    """(R,) runs of a mask in any of COCO's forms: polygons, compressed RLE or not."""
    if isinstance(segmentation, list):
        counts = cast(dict[str, Any], rle.merge(rle.frPyObjects(segmentation, height, width)))["counts"]
    else:
        counts = segmentation["counts"]
    runs = runs_of(counts)
    if runs is None:
        raise ValueError(f"run lengths that cannot be read: {counts[:20]!r}")
    return runs


def area(segmentation: Any, height: int, width: int) -> int:
    """Pixels of a mask in any of COCO's forms."""
    return int(encoded(segmentation, height, width)[1::2].sum())


def cut_out(segmentation: Any, height: int, width: int) -> Cut:
    """A mask in any of COCO's forms as far as it has pixels; equal to those of pycocotools' `decode`."""
    ends = np.cumsum(encoded(segmentation, height, width))
    starts, stops = ends[0:-1:2], ends[1::2]
    filled = stops > starts
    starts, stops = starts[filled], stops[filled]
    if not len(starts):
        return Cut(np.zeros((0, 0), dtype=np.uint8), 0, 0)
    columns, rows = np.divmod(starts, height)
    last_columns, last_rows = np.divmod(stops - 1, height)
    left, width_cut = int(columns[0]), int(last_columns[-1] - columns[0]) + 1
    top, bottom = int(rows.min()), int(last_rows.max()) + 1
    if (columns != last_columns).any():  # a run from the foot of one column to the head of the next
        top, bottom = 0, height
    height_cut = bottom - top
    # +1 where ones begin, -1 where they end: the running sum is the mask
    steps = np.zeros(width_cut * height_cut + 1, dtype=np.int8)
    steps[(columns - left) * height_cut + rows - top] += 1
    steps[(last_columns - left) * height_cut + last_rows - top + 1] -= 1
    mask = np.cumsum(steps[:-1], dtype=np.int8).view(np.uint8).reshape(width_cut, height_cut).T
    return Cut(np.ascontiguousarray(mask), top, left)


def compressed_cut(cut: Cut, height: int, width: int) -> dict[str, Any]:
    """COCO's compressed RLE, as JSON takes it, of the mask of a whole image that has `cut` in it and zeros elsewhere."""
    inside = np.zeros((cut.mask.shape[1], cut.mask.shape[0] + 2), dtype=np.int8)
    inside[:, 1:-1] = cut.mask.T > 0
    edges = np.diff(inside, axis=1)
    columns, rows = np.nonzero(edges == 1)
    _, ends = np.nonzero(edges == -1)
    offset = (columns + cut.left) * height + cut.top
    bounds = np.stack([offset + rows, offset + ends], axis=1).ravel()
    # ones at the foot of a column and at the head of the next are one run
    joined = np.flatnonzero(bounds[1:-1:2] == bounds[2::2]) * 2 + 1
    bounds = np.delete(bounds, np.concatenate([joined, joined + 1]))
    runs = np.diff(np.concatenate([[0], bounds, [height * width]]))
    if len(bounds) and bounds[-1] == height * width:
        runs = runs[:-1]
    found = cast(dict[str, Any], rle.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width))
    return {"size": [height, width], "counts": found["counts"].decode("ascii")}
