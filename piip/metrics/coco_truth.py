"""What detections are scored against: a COCO-style document's images and annotations, complete."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

log = logging.getLogger(__name__)

PERSON = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
)  # fmt: skip
"""COCO's sigmas of a person's 17 keypoints: how far annotators are off, as a part of the square root of an object's area."""
OTHERS = 0.05
"""The sigma of keypoints that COCO does not know, between its eyes and its knees; a category's own `sigmas` take its place."""

Entry = dict[str, Any]
"""An image, an annotation or a result, as COCO's files have it."""


@dataclass(frozen=True)
class Truth:
    """What results are scored against; made once, shared by the metrics of a split."""

    categories: list[Entry]
    images: Mapping[int, Entry]
    """Image id -> the file's entry."""
    annotations: Mapping[int, list[Entry]]
    """By image id, complete; ids count from 1, as 0 means "unmatched" to pycocotools."""
    masks: bool
    """Whether every annotation has one; else boxes alone are scored."""
    sigmas: tuple[float, ...] = ()
    """Of the keypoints, in their order (see `PERSON`); empty: none are scored."""

    @cached_property
    def numbers(self) -> dict[str, dict[int, int]]:
        """`image_id` and `category_id` -> id -> its number from 1, in order: scorers keep ids as doubles, whole up to 2**53 only."""
        ids = {"image_id": list(self.images), "category_id": [category["id"] for category in self.categories]}
        return {name: {given: k for k, given in enumerate(sorted(those), 1)} for name, those in ids.items()}

    @classmethod
    def of(
        cls,
        document: Mapping[str, Any],
        image_ids: Iterable[int] | None = None,
        *,
        masks: bool = True,
        keypoints: bool = False,
    ) -> Self:
        """From a parsed annotation file.

        Args:
            document: Free of faults (see piip/data/formats/coco_json.py).
            image_ids: Only these images; None takes all.
            masks: Whether masks are scored, where they are there.
            keypoints: Whether keypoints are scored, where they are there.
        """
        wanted = None if image_ids is None else set(image_ids)
        images = {image["id"]: image for image in document["images"] if wanted is None or image["id"] in wanted}
        annotations: dict[int, list[Entry]] = {image_id: [] for image_id in images}
        mine = (a for a in document["annotations"] if a["image_id"] in images)
        sigmas = sigmas_of(document) if keypoints else ()
        total, lacking = 0, 0
        for total, annotation in enumerate(mine, start=1):
            lacking += not annotation.get("segmentation")
            entry = _complete(annotation, total, images[annotation["image_id"]])
            annotations[annotation["image_id"]].append(entry | (_points(annotation, len(sigmas)) if sigmas else {}))
        if masks and lacking:
            log.warning("%d of %d annotations have no mask: boxes alone are scored", lacking, total)
        return cls(document["categories"], images, annotations, masks=masks and not lacking, sigmas=sigmas)


def sigmas_of(document: Mapping[str, Any]) -> tuple[float, ...]:
    """How exact each keypoint of a file's objects is: what a category says (`sigmas`), COCO's for 17, else `OTHERS` each.

    Empty where no annotation has keypoints.

    Raises:
        ValueError: Objects have different numbers of keypoints, or categories other sigmas than these.
    """
    counts = {len(a["keypoints"]) // 3 for a in document["annotations"] if a.get("keypoints")}
    said = {tuple(category["sigmas"]) for category in document["categories"] if category.get("sigmas")}
    if len(counts) > 1 or len(said) > 1 or any(len(sigmas) not in counts for sigmas in said if counts):
        raise ValueError(
            f"keypoints are scored of objects that all have as many: here {sorted(counts)}, with sigmas for "
            f"{sorted(map(len, said))}; leave out some categories"
        )
    if not counts:
        return ()
    (count,) = counts
    return next(iter(said), PERSON if count == len(PERSON) else (OTHERS,) * count)


def _complete(annotation: Mapping[str, Any], number: int, image: Mapping[str, Any]) -> Entry:
    """What COCO asks for, some of which users' files often lack, and nothing else: what more a file says, readers take differently."""
    box = [float(value) for value in annotation["bbox"]]
    area = annotation.get("area")
    entry: Entry = {
        "id": number,
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "bbox": box,
        "area": box[2] * box[3] if area is None else float(area),
        "iscrowd": int(bool(annotation.get("iscrowd"))),
    }
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, Mapping):
        segmentation = {"size": [image["height"], image["width"]], "counts": segmentation["counts"]}
    return entry | ({"segmentation": segmentation} if segmentation else {})


def _points(annotation: Mapping[str, Any], count: int) -> Entry:
    """An object's keypoints x, y, visibility; one without any is not scored, as COCO has it."""
    points: Sequence[float] = annotation.get("keypoints") or [0.0] * (3 * count)
    return {
        "keypoints": [float(value) for value in points],
        "num_keypoints": sum(visible > 0 for visible in points[2::3]),
    }
