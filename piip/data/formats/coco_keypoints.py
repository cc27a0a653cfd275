"""Keypoints of COCO's files: how many there are, and which become which in a mirror."""

import re
from collections.abc import Mapping
from typing import Any

from piip.data.sources import DataError
from piip.metrics.coco_truth import sigmas_of


def mirrored_order(document: Mapping[str, Any], wanted: int) -> list[int]:
    """Which keypoint stands at each place once an image is mirrored: names that differ in left and right change places.

    Args:
        document: Free of faults.
        wanted: How many keypoints of an object the head learns.

    Raises:
        DataError: Objects have none, or others; or names that are not of as many.
    """
    try:
        there = len(sigmas_of(document))
    except ValueError as error:
        raise DataError(str(error)) from None
    if there != wanted:
        advice = f"Set model.head.num_keypoints to {there}" if there else "Take a head that learns none"
        raise DataError(f"objects have {there or 'no'} keypoints, the head learns {wanted}. {advice}")
    named = {tuple(category["keypoints"]) for category in document["categories"] if category.get("keypoints")}
    if len(named) > 1 or any(len(names) != wanted for names in named):
        raise DataError(f"categories name {len(named)} lists of keypoints; one, of {wanted} names, is wanted")
    names = next(iter(named), tuple(map(str, range(wanted))))
    place = {name: number for number, name in enumerate(names)}
    return [place.get(_other_side(name), number) for number, name in enumerate(names)]


def _other_side(name: str) -> str:
    """`left_eye` -> `right_eye`, and back; other names stay."""
    sides = {"left": "right", "right": "left"}
    return re.sub("left|right", lambda found: sides[found[0]], name)
