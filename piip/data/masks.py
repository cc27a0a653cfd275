"""Masks between their forms: COCO's polygons and run lengths, arrays, and what a mask head predicts."""

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle


def compressed(mask: NDArray[Any]) -> dict[str, Any]:
    """COCO's compressed RLE of an (H, W) array of 0 and 1, as JSON takes it."""
    encoded = cast(dict[str, Any], rle.encode(np.asfortranarray(mask, dtype=np.uint8)))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}
