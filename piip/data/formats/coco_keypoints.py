"""Keypoints of COCO's files: how many there are, and which become which in a mirror."""

import re
from collections.abc import Mapping
from typing import Any

from piip.data.sources import DataError
from piip.metrics.coco_truth import sigmas_of


def mirrored_order(document: Mapping[str, Any], wanted: int, *, needed: bool = False) -> list[int]:
    """Which keypoint stands at each place once an image is mirrored: as `flip_idx` says; names that differ in left and right change places.

    Args:
        document: Free of faults.
        wanted: How many keypoints of an object the head learns.
        needed: Whether images are mirrored: numbers instead of names do not say.

    Raises:
        DataError: Objects have none, or others; names or `flip_idx` that are not of as many; or nobody says and it is needed.
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
    if said := [category["flip_idx"] for category in document["categories"] if category.get("flip_idx")]:
        order = list(range(wanted))
        if any(one != said[0] for one in said) or not is_mirror(said[0], wanted):
            raise DataError(
                f"flip_idx is {said[0]!r}; one list is wanted: {order} with those exchanged that change places"
            )
        return said[0]
    names = next(iter(named), tuple(map(str, range(wanted))))
    if needed and wanted > 1 and all(name.isdecimal() for name in names):
        raise DataError(
            "nobody says which keypoint becomes which in a mirror. Add flip_idx, or kpt_names with left and right, to data.yaml (names to "
            "JSON's categories), or train without mirroring: --set data.flip=0"
        )
    place = {name: number for number, name in enumerate(names)}
    return [place.get(_other_side(name), number) for number, name in enumerate(names)]


def is_mirror(order: Any, count: int) -> bool:
    """Whether it is what `flip_idx` may be: each of `count` numbers from 0 once, those that change places naming each other."""
    if not isinstance(order, list) or len(order) != count or not all(type(place) is int for place in order):
        return False
    return sorted(order) == list(range(count)) and all(order[other] == place for place, other in enumerate(order))


def _other_side(name: str) -> str:
    """`left_eye` -> `right_eye`, and back; other names stay."""
    sides = {"left": "right", "right": "left"}
    return re.sub("left|right", lambda found: sides[found[0]], name)
