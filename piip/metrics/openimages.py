"""Open Images' mean average precision of boxes: classes of a hierarchy, verified labels, boxes of groups."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from piip.metrics.matched import (
    Entry,
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
"""Of a box with an object: intersection over union; with a group: the part of the box inside it. From here on it is found."""


class OpenImagesAP(MatchedByImage):
    """Scores results as the Open Images challenge does (TensorFlow's object detection evaluator of it).

    An object is one of each ancestor of its class, too. Results of classes that nobody verified in an image are left out; a verified
    absence holds for all below. A group's box counts as one object, found by the surest of the results inside it that found nothing
    else; these others count neither way.

    Args:
        document: COCO-style. Categories may have `parents`: ids; annotations `is_group_of`: 1; images `pos_category_ids` and
            `neg_category_ids`, what is verified to be there or not (classes of boxes are anyway). All as in Open Images' files: what
            follows for ancestors is worked out here.
        image_ids: Only these images; None takes all.
        expand_results: Results, too, stand for their class's ancestors (the challenge wants these from who takes part).
    """

    def __init__(
        self, document: Mapping[str, Any], image_ids: Iterable[int] | None = None, *, expand_results: bool = False
    ):
        super().__init__(document, image_ids)
        self._expand_results = expand_results
        self._line = lines_of(self.categories)
        below: dict[int, set[int]] = {number: set() for number in self._line}
        for number, line in self._line.items():
            for ancestor in line:
                below[ancestor].add(number)
        self._below = below

    def _note(self, image_id: int, result: Sequence[Entry]) -> dict[int, Matches]:
        there = self._by_class(self.annotations[image_id])
        found = self._by_class(result, expand=self._expand_results)
        image = self.images[image_id]
        verified = set(there).union(*(self._line[number] for number in image.get("pos_category_ids", ())))
        verified = verified.union(*(self._below[number] for number in image.get("neg_category_ids", ())))
        return {
            number: _matched(surest_first(found[number]), there.get(number, []))
            for number in sorted(verified & set(found))
        }

    def compute(self) -> dict[str, float]:
        """`openimages/box_ap50`: the mean over classes that an object is there of, 0..1."""
        classes = [numbers["box_ap50"] for numbers in self.per_class().values()]
        if not classes:
            log.warning("nothing to score: no objects in %d images", len(self.images))
        return {"openimages/box_ap50": float(np.mean(classes))} if classes else {}

    def per_class(self) -> dict[int, dict[str, float]]:
        """`box_ap50` of each class that an object, or a group, is there of."""
        noted, total = self._all(), dict.fromkeys(self._line, 0)
        for annotations in self.annotations.values():
            for number, objects in self._by_class(annotations).items():
                total[number] += len(objects)
        found = {number: joined([n[number] for n in noted if number in n]) for number, count in total.items() if count}
        return {
            number: {"box_ap50": area_under(*precision_recall(matches, total[number]))}
            for number, matches in found.items()
        }

    def _by_class(self, entries: Sequence[Entry], *, expand: bool = True) -> dict[int, list[Entry]]:
        """Category id -> its entries, and those of what is below it."""
        classes: dict[int, list[Entry]] = {}
        for entry in entries:
            for number in self._line[entry["category_id"]] if expand else (entry["category_id"],):
                classes.setdefault(number, []).append(entry)
        return classes


def lines_of(categories: Sequence[Entry]) -> dict[int, tuple[int, ...]]:
    """Category id -> itself and all its ancestors.

    Raises:
        ValueError: A parent that is no category, or one that is its own ancestor.
    """
    parents = {category["id"]: tuple(category.get("parents", ())) for category in categories}

    def line(number: int, seen: tuple[int, ...]) -> set[int]:
        if number in seen or number not in parents:
            what = "is above itself" if number in seen else "is no category"
            raise ValueError(f"hierarchy of classes: {number}, a parent of {seen[-1]}, {what}")
        return {number}.union(*(line(parent, (*seen, number)) for parent in parents[number]))

    return {number: tuple(sorted(line(number, ()))) for number in parents}


def _matched(result: Sequence[Entry], there: Sequence[Entry]) -> Matches:
    """One class of an image: objects first, then groups.

    Args:
        result: The surest first.
        there: Objects and groups of that class.
    """
    scores = np.array([entry["score"] for entry in result], dtype=np.float64)
    right, mine = np.zeros(len(result)), corners_of(result)
    grouped, counts = np.zeros(len(result), dtype=bool), np.ones(len(result), dtype=bool)
    single, groups = ([a for a in there if bool(a.get("is_group_of")) is grouped] for grouped in (False, True))
    if single:
        theirs = corners_of(single)
        common = intersections(mine, theirs)
        overlap = parts(common, areas(mine)[:, None] + areas(theirs) - common)
        taken = set[int]()
        for row, at in enumerate(overlap.argmax(axis=1).tolist()):
            if overlap[row, at] >= OVERLAP and at not in taken:
                right[row] = 1.0
                taken.add(at)
    if groups:
        inside = parts(intersections(mine, corners_of(groups)), areas(mine)[:, None])
        taken = set[int]()
        for row, at in enumerate(inside.argmax(axis=1).tolist()):
            if inside[row, at] >= OVERLAP and not right[row]:
                # the surest stands for the group, the others for nothing (nor does one of a score of 0, as the evaluator has it)
                counts[row] = at not in taken and scores[row] > 0
                grouped[row], right[row] = True, float(counts[row])
                taken.add(at)
    # those of groups come last, which decides among equal scores
    order = np.concatenate([np.flatnonzero(counts & ~grouped), np.flatnonzero(counts & grouped)])
    return Matches(scores[order], right[order])
