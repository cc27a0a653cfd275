"""Keypoints of the demo's objects: the highest, rightmost, lowest and leftmost point of each outline."""

from typing import Any

from piip.data.demo.scene import Drawn

NAMES = ("top", "right", "bottom", "left")
"""In a mirror right and left change places."""
SKELETON = [[1, 2], [2, 3], [3, 4], [4, 1]]
"""Lines between them, counted from 1 as in COCO's files."""
NEAR = 2
"""Pixels: a point is seen where some of its object is, as near as this; else another object hides it."""


def keypoints_of(thing: Drawn) -> list[float]:
    """x, y, visibility (1 hidden, 2 seen) of each."""
    height, width = thing.mask.shape
    outline = thing.outline[0].clip(0, (width, height))
    x, y = outline.T
    points: list[float] = []
    for at in (y.argmin(), x.argmax(), y.argmax(), x.argmin()):
        column, row = (int(v) for v in outline[at])
        near = thing.mask[max(row - NEAR, 0) : row + NEAR + 1, max(column - NEAR, 0) : column + NEAR + 1]
        points += [round(float(x[at]), 2), round(float(y[at]), 2), 2 if near.any() else 1]
    return points


def with_keypoints(document: dict[str, Any], keypoints: list[list[float]]) -> dict[str, Any]:
    """A split's document with the keypoints of its annotations, in their order."""
    annotations = zip(document["annotations"], keypoints, strict=True)
    return document | {
        "annotations": [a | {"keypoints": points, "num_keypoints": len(NAMES)} for a, points in annotations],
        "categories": [c | {"keypoints": list(NAMES), "skeleton": SKELETON} for c in document["categories"]],
    }
