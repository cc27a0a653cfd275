"""What is wrong with an annotation's box or segmentation: checked before anything of C reads it."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from typing_extensions import TypeIs

from piip.data.limits import FARTHEST, LONGEST
from piip.data.runs import runs_of


def is_whole(value: Any) -> TypeIs[int]:
    """Whether it is a whole number, which true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number that fits a float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def box_fault(box: Any, size: tuple[int, int]) -> str | None:
    """What is wrong with x, y, width, height in an image of `size` (height, width), in words; None: nothing."""
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))) or min(box[2:]) < 0:
        return "four finite numbers x, y, width, height >= 0 are needed"
    x, y, width, height = box
    if min(x, y) < -FARTHEST or x + width > size[1] + FARTHEST or y + height > size[0] + FARTHEST:
        return f"which reaches more than {FARTHEST} pixels out of the image of {size[1]} x {size[0]}"
    return None


def has_mask(annotation: Any) -> bool:
    """Whether it says anything of a mask; tools that draw boxes alone leave the field out, or write null or an empty list."""
    return annotation.get("segmentation") not in (None, [])


def segmentation_fault(segmentation: Any, size: tuple[int, int]) -> str | None:
    """What is wrong with a polygon list or an RLE of an image of `size` (height, width), in words; None: nothing."""
    if isinstance(segmentation, list):
        return next((fault for polygon in segmentation if (fault := _polygon_fault(polygon, size))), None)
    counts, given_size = (segmentation.get(k) if isinstance(segmentation, dict) else None for k in ("counts", "size"))
    if not isinstance(counts, str | list) or not isinstance(given_size, list):
        return "segmentation is neither a list of polygons nor an RLE with size and counts"
    if tuple(given_size) != size:
        return f"RLE of size {given_size}, but the image is {list(size)} (height, width)"
    pixels = size[0] * size[1]
    readable = isinstance(counts, str) or all(is_whole(run) and 0 <= run <= pixels for run in counts)
    runs = runs_of(counts) if readable else None
    # pycocotools writes past the end of its buffer on longer ones
    if runs is None or runs.min(initial=0) < 0 or runs.max(initial=0) > pixels or runs.sum() != pixels:
        return f"RLE runs do not add up to the image's {pixels} pixels"
    return None


def _polygon_fault(polygon: Any, size: tuple[int, int]) -> str | None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return "a polygon needs an even count of at least 6 numbers x, y, x, y, .."
    if not _are_finite(polygon):
        return "a polygon has a coordinate that is not a finite number"
    least, most = min(polygon), max(polygon)
    if least < -FARTHEST or most > max(size) + FARTHEST:
        farthest = least if least < -FARTHEST else most
        return f"a polygon reaches {farthest:g}, more than {FARTHEST} pixels out of the image of {size[1]} x {size[0]}"
    # the sides are no longer than the whole is wide, so most polygons need no adding up
    if len(polygon) / 2 * (most - least) > LONGEST and (length := _length(polygon)) > LONGEST:
        return f"a polygon is {length:.0f} pixels around, more than {LONGEST}"
    return None


def _length(polygon: list[float]) -> float:
    corners = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


def _are_finite(values: list[Any]) -> bool:
    """Whether all are finite numbers; by their sum, as COCO has fifty million."""
    try:
        return math.isfinite(sum(values))
    except (TypeError, OverflowError):
        return False


def skeleton_of(category: Mapping[str, Any]) -> dict[str, list[list[int]]]:
    """{"skeleton": pairs of keypoints that are joined, counted from 1}; empty where a class says none, or none that can be drawn."""
    pairs, names = category.get("skeleton"), category.get("keypoints")
    if not isinstance(pairs, list) or not isinstance(names, list) or not pairs:
        return {}
    ends = [end for pair in pairs for end in (pair if isinstance(pair, list) and len(pair) == 2 else [None])]
    if not all(is_whole(end) and 1 <= end <= len(names) for end in ends):
        return {}
    return {"skeleton": [list(pair) for pair in pairs]}
