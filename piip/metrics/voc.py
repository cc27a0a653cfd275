"""PASCAL VOC's average precision of boxes, as its development kit computes it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from piip.metrics.matched import (
    Entry,
    Floats,
    MatchedByImage,
    Matches,
    area_under,
    areas,
    corners_of,
    intersections,
    joined,
    log,
    parts,
    precision_recall,
    surest_first,
)

OVERLAP = 0.5
"""Intersection over union from which on a result has found an object."""


class VocAP(MatchedByImage):
    """Scores results as the development kit of VOC 2007 to 2012 does (VOCevaldet.m): overlap of .5, difficult objects ignored.

    Boxes x, y, width, height are of whole pixels: the XML's xmin = x + 1 and xmax = x + width, the last pixel belonging to the box, so
    that sides are xmax - xmin + 1, the kit's.

    Args:
        document: COCO-style; annotations may have `difficult`: 1 where neither finding nor missing an object counts.
        image_ids: Only these images; None takes all.
    """

    def _note(self, image_id: int, result: Sequence[Entry]) -> dict[int, Matches]:
        there = self.annotations[image_id]
        return {
            category_id: _matched(
                surest_first([entry for entry in result if entry["category_id"] == category_id]),
                [annotation for annotation in there if annotation["category_id"] == category_id],
            )
            for category_id in sorted({entry["category_id"] for entry in result})
        }

    def compute(self) -> dict[str, float]:
        """`voc/box_ap50` (area under the curve, VOC 2010 on) and `voc/box_ap50_11point` (VOC 2007), means over classes, 0..1.

        Classes without an object (that is not difficult) are left out.
        """
        classes = list(self.per_class().values())
        if not classes:
            log.warning("nothing to score: no objects in %d images", len(self.images))
            return {}
        return {f"voc/{name}": float(np.mean([numbers[name] for numbers in classes])) for name in classes[0]}

    def per_class(self) -> dict[int, dict[str, float]]:
        """`box_ap50` and `box_ap50_11point` of each class that an object is there of."""
        noted = self._all()
        of_each: dict[int, dict[str, float]] = {}
        for number in (category["id"] for category in self.categories):
            objects = (a for those in self.annotations.values() for a in those if a["category_id"] == number)
            total = sum(not annotation.get("difficult") for annotation in objects)
            if total:
                found = joined([matches[number] for matches in noted if number in matches])
                curve = precision_recall(found, total)
                of_each[number] = {"box_ap50": area_under(*curve), "box_ap50_11point": eleven_points(*curve)}
        return of_each


def eleven_points(precision: Floats, recall: Floats) -> float:
    """The mean of the best precision from a recall of 0, .1, .., 1 on (VOC 2007)."""
    return float(np.mean([precision[recall >= point].max(initial=0.0) for point in np.arange(11) / 10]))


def _matched(result: Sequence[Entry], there: Sequence[Entry]) -> Matches:
    """A result is right if the object it overlaps most is found for the first time; the most by .5 or more.

    Args:
        result: Of one image and class, the surest first.
        there: The objects of that class.
    """
    scores = np.array([entry["score"] for entry in result], dtype=np.float64)
    if not there:
        return Matches(scores, np.zeros(len(result)))
    mine, theirs = (_pixels(entries) for entries in (result, there))
    common = intersections(mine, theirs, pixel=1.0)
    overlap = parts(common, areas(mine, pixel=1.0)[:, None] + areas(theirs, pixel=1.0) - common)
    right, counts, taken = np.zeros(len(result)), np.ones(len(result), dtype=bool), set[Any]()
    for row, at in enumerate(overlap.argmax(axis=1).tolist()):
        if overlap[row, at] >= OVERLAP and there[at].get("difficult"):
            counts[row] = False
        elif overlap[row, at] >= OVERLAP and at not in taken:
            right[row] = 1.0
            taken.add(at)
    return Matches(scores[counts], right[counts])


def _pixels(entries: Sequence[Entry]) -> Floats:
    """(n, 4) xmin, ymin, xmax, ymax as VOC's files have them."""
    corners = corners_of(entries)
    corners[:, :2] += 1
    return corners
