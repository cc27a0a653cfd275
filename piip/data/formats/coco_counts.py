"""What becomes of the annotations of a COCO-format file in training: one rule for the check and for whoever learns from it."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from piip.data.problems import Problem
from piip.data.transforms.limits import MIN_SIDE

Fate = Literal["learned", "crowds", "outside their image", "under a pixel"]


def is_crowd(annotation: Mapping[str, Any]) -> bool | None:
    """Whether an annotation is of a crowd: not learned, and neither right nor wrong in scoring. None: it does not say 0 or 1."""
    given = annotation.get("iscrowd")
    return bool(given) if given is None or (isinstance(given, int | float) and given in (0, 1)) else None


def fate(annotation: Mapping[str, Any], height: int, width: int) -> Fate:
    """What training does with an annotation whose box is free of faults, in an image of this size.

    Boxes under a pixel of the file, as far as they are inside the image, are left out as in mmdetection. What is smaller than that after
    resizing is left out of that one sample.
    """
    if is_crowd(annotation):
        return "crowds"
    x, y, w, h = annotation["bbox"]
    inside_x, inside_y = min(x + w, width) - max(x, 0), min(y + h, height) - max(y, 0)
    if inside_x <= 0 or inside_y <= 0:
        return "outside their image"
    return "learned" if inside_x >= MIN_SIDE and inside_y >= MIN_SIDE else "under a pixel"


def in_unit_square(box: list[float], height: int, width: int) -> bool:
    """Whether a box lies within 0..1 of an image of more pixels: as fractions of width and height do."""
    x, y, w, h = box
    return min(x, y) >= 0 and max(x + w, y + h) <= 1 and min(height, width) > 1


def over_the_edge(box: list[float], height: int, width: int) -> float:
    """Pixels that a box reaches out of its image, at most; 0 inside."""
    x, y, w, h = box
    return max(-x, -y, x + w - width, y + h - height, 0)


class Fates:
    """Annotations counted by what becomes of them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._in_unit_square = 0

    def add(self, becomes: Fate, *, in_unit_square: bool) -> None:
        """One more."""
        self.counts[becomes] += 1
        self._in_unit_square += in_unit_square

    def nothing_to_learn(self) -> Problem | None:
        """Why a split teaches nothing and scores nothing; None where it does."""
        total = self.counts.total()
        if total and self._in_unit_square == total:
            message = (
                f"all {total} boxes lie within 0..1: these look like fractions of the image's sides. COCO's x, y, width, height are "
                "pixels: multiply them by the image's width and height"
            )
            return Problem("boxes as fractions", message)
        if self.counts["learned"]:
            return None
        left_out = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return Problem(
            "nothing to learn", f"0 of {total} objects can be learned or scored{left_out and f': {left_out}'}"
        )
