"""CrowdHuman's three numbers of people's full boxes: average precision, log-average miss rate, Jaccard index."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.integrate import trapezoid
from scipy.optimize import linear_sum_assignment

from piip.metrics.matched import (
    Entry,
    Floats,
    MatchedByImage,
    Matches,
    areas,
    corners_of,
    intersections,
    joined,
    log,
    precision_recall,
    surest_first,
)

OVERLAP = 0.5
"""Above it a box has found a person (intersection over union), or is in an ignored region (part of the box inside it)."""
EPSILON = 1e-6
"""That the authors' code adds to areas it divides by."""
FALSE_PER_IMAGE = (0.01, 0.0178, 0.0316, 0.0562, 0.1, 0.1778, 0.3162, 0.5623, 1.0)
"""False positives an image at which the miss rate is read (Dollar et al., Pedestrian detection, 2012), as the authors round them."""
THRESHOLDS = tuple(0.1 * step for step in range(10))
"""Scores above which results are taken for the Jaccard index; the best of the ten counts."""


class Noted(NamedTuple):
    """Of one image."""

    matches: Matches
    matched: Floats
    """(10, 3): at each of the thresholds the pairs, the people and the boxes that count."""


class CrowdHumanScore(MatchedByImage):
    """Scores results as the authors' tools do (CrowdDet's evaluation): boxes clipped to the image, .5 overlap, ignored regions.

    Args:
        document: COCO-style, boxes of full bodies; `iscrowd`: 1 of what the data say to ignore (other tags than person, or
            extra.ignore); images have `width` and `height`.
        image_ids: Only these images; None takes all.
    """

    def _note(self, image_id: int, result: Sequence[Entry]) -> Noted:
        image, there = self.images[image_id], self.annotations[image_id]
        result = surest_first(result)
        scores = np.array([entry["score"] for entry in result], dtype=np.float64)
        found, people, ignored = (
            _clipped(corners_of(entries), image)
            for entries in (
                result,
                [a for a in there if not a.get("iscrowd")],
                [a for a in there if a.get("iscrowd")],
            )
        )
        overlap, inside = _overlaps(found, people), _insides(found, ignored)
        missing = _insides(people, ignored)
        counted = [_paired(overlap[scores > least], inside[scores > least], missing) for least in THRESHOLDS]
        return Noted(_matched(scores, overlap, inside), np.array(counted, dtype=np.float64))

    def compute(self) -> dict[str, float]:
        """`crowdhuman/box_ap50`, `crowdhuman/mr` (lower is better) and `crowdhuman/ji`, 0..1."""
        noted: list[Noted] = self._all()
        total = sum(not a.get("iscrowd") for annotations in self.annotations.values() for a in annotations)
        if not total:
            log.warning("nothing to score: no people in %d images", len(self.images))
            return {}
        found = joined([note.matches for note in noted])
        precision, recall = precision_recall(found, total)
        return {
            "crowdhuman/box_ap50": float(trapezoid(precision, recall)),
            "crowdhuman/mr": _miss_rate(np.cumsum(found.right <= 0) / len(self.images), 1.0 - recall),
            "crowdhuman/ji": _jaccard(np.stack([note.matched for note in noted])),
        }


def _clipped(corners: Floats, image: Entry) -> Floats:
    """Boxes inside their image; those beyond its right or lower edge keep its last pixel."""
    width, height = image["width"], image["height"]
    low = np.clip(corners[:, :2], 0, (width - 1, height - 1))
    return np.hstack([low, np.clip(corners[:, 2:], 0, (width, height))])


def _overlaps(found: Floats, people: Floats) -> Floats:
    common = intersections(found, people)
    return common / (areas(found)[:, None] + areas(people) - common + EPSILON)


def _insides(boxes: Floats, ignored: Floats) -> Floats:
    """How much of each box is inside each region."""
    return intersections(boxes, ignored) / (areas(boxes)[:, None] + EPSILON)


def _matched(scores: Floats, overlap: Floats, inside: Floats) -> Matches:
    """The surest takes the person it overlaps most of those that are left; one that finds nobody in an ignored region counts not."""
    right, left = np.zeros(len(scores)), np.ones(overlap.shape[1], dtype=bool)
    for row in range(len(scores) if overlap.size else 0):
        at = int(np.where(left, overlap[row], -1.0).argmax())
        if left[at] and overlap[row, at] > OVERLAP:
            right[row], left[at] = 1.0, False
    counts = (right > 0) | ~(inside > OVERLAP).any(axis=1)
    return Matches(scores[counts], right[counts])


def _paired(overlap: Floats, inside: Floats, missing: Floats) -> tuple[int, int, int]:
    """Pairs of boxes and people of the greatest overlap in all, and the people and boxes that count beside them."""
    near = np.where(overlap > OVERLAP, overlap, 0.0)
    rows, columns = linear_sum_assignment(near, maximize=True)
    pairs = near[rows, columns] > 0
    ignored = [
        int((np.delete(part, those[pairs], axis=0) > OVERLAP).any(axis=1).sum())
        for part, those in ((missing, columns), (inside, rows))
    ]
    return int(pairs.sum()), len(missing) - ignored[0], len(inside) - ignored[1]


def _miss_rate(false_per_image: Floats, missed: Floats) -> float:
    """The geometric mean of the miss rates at nine rates of false positives, or of the last one where there are not so many."""
    if not len(missed):
        return 1.0
    at = np.minimum(np.searchsorted(false_per_image, FALSE_PER_IMAGE), len(missed) - 1)
    with np.errstate(divide="ignore"):  # nobody missed: log 0, a mean of 0
        return float(np.exp(np.log(missed[at]).mean()))


def _jaccard(matched: Floats) -> float:
    """The best mean over images that have people or boxes.

    Args:
        matched: (images, thresholds, 3) pairs, people, boxes.
    """
    pairs, people, boxes = matched.transpose(2, 1, 0)
    ratios = (pairs / (people + boxes - pairs + EPSILON)).sum(axis=1)
    counted = ((people != 0) | (boxes != 0)).sum(axis=1)
    return float(np.divide(ratios, counted, out=np.zeros_like(ratios), where=counted > 0).max())
