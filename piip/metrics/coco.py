"""COCO's average precision of boxes and masks, matched image by image as results come (hotcoco; the tests' oracle is pycocotools)."""

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from hotcoco import StreamingEval

if TYPE_CHECKING:
    from piip.data.samples import ImageInfo

log = logging.getLogger(__name__)

KINDS: dict[str, Literal["bbox", "segm"]] = {"box": "bbox", "mask": "segm"}
"""Our name -> COCO's."""
NUMBERS = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip
"""In pycocotools' order. Small is below 32 x 32 pixels of the file, large from 96 x 96 on."""

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

    @cached_property
    def numbers(self) -> dict[str, dict[int, int]]:
        """`image_id` and `category_id` -> id -> its number from 1, in order: scorers keep ids as doubles, whole up to 2**53 only."""
        ids = {"image_id": list(self.images), "category_id": [category["id"] for category in self.categories]}
        return {name: {given: k for k, given in enumerate(sorted(those), 1)} for name, those in ids.items()}

    @classmethod
    def of(cls, document: Mapping[str, Any], image_ids: Iterable[int] | None = None, *, masks: bool = True) -> Self:
        """From a parsed annotation file.

        Args:
            document: Free of faults (see piip/data/formats/coco_json.py).
            image_ids: Only these images; None takes all.
            masks: Whether masks are scored, where they are there.
        """
        wanted = None if image_ids is None else set(image_ids)
        images = {image["id"]: image for image in document["images"] if wanted is None or image["id"] in wanted}
        annotations: dict[int, list[Entry]] = {image_id: [] for image_id in images}
        mine = (a for a in document["annotations"] if a["image_id"] in images)
        total, lacking = 0, 0
        for total, annotation in enumerate(mine, start=1):
            lacking += not annotation.get("segmentation")
            annotations[annotation["image_id"]].append(_complete(annotation, total, images[annotation["image_id"]]))
        if masks and lacking:
            log.warning("%d of %d annotations have no mask: boxes alone are scored", lacking, total)
        return cls(document["categories"], images, annotations, masks=masks and not lacking)


@dataclass(frozen=True)
class State:
    """What a metric has taken in: scores and matches, some 22 bytes a detection and kind; no boxes, no masks."""

    image_ids: list[int]
    masks: bool | None
    """Whether results had masks; None where nothing was found in any image."""
    matched: dict[str, bytes]
    """Kind -> hotcoco's state."""


class CocoAP:
    """Scores results with COCO's rules: crowds ignored, the 100 surest detections of an image.

    Args:
        truth: What is there. Images without any result count as nothing found.
    """

    def __init__(self, truth: Truth):
        self.truth = truth
        self._seen: set[int] = set()
        self._masks: bool | None = None
        categories = [
            {"id": truth.numbers["category_id"][category["id"]], "name": category["name"]}
            for category in sorted(truth.categories, key=lambda category: category["id"])
        ]
        self._matching = {
            name: StreamingEval(categories, kind) for name, kind in KINDS.items() if truth.masks or name == "box"
        }

    def update(self, result: Sequence[Mapping[str, Any]], info: "ImageInfo") -> None:
        """Match an image's result entries: image_id, category_id, bbox, score and, of a mask head, segmentation (compressed RLE).

        Raises:
            ValueError: The image is not scored or came before, or only some results have masks.
        """
        odd = {entry["image_id"] for entry in result} - {info.image_id}
        if odd or info.image_id not in self.truth.images:
            raise ValueError(
                f"results for image {min(odd, default=info.image_id)}, which is not the one that is scored"
            )
        if info.image_id in self._seen:
            raise ValueError(f"image {info.image_id} is scored already; each image comes once")
        self._note_masks({"segmentation" in entry for entry in result})
        self._seen.add(info.image_id)
        self._match(self._matching, [info.image_id], result)

    def state(self) -> State:
        """All that has been taken in."""
        matched = {name: matching.to_bytes() for name, matching in self._matching.items()}
        return State(sorted(self._seen), self._masks, matched)

    def merge(self, states: Sequence[State]) -> None:
        """Take the place of the metrics whose states these are; the order changes no bit.

        Raises:
            ValueError: No states, two that scored one image, or only some with masks.
        """
        ids = [image_id for state in states for image_id in state.image_ids]
        if not states or len(set(ids)) < len(ids):
            raise ValueError(f"{len(states)} states to merge, of {len(ids)} images, {len(set(ids))} of them different")
        self._seen, self._masks = set(ids), None
        self._note_masks({state.masks for state in states if state.masks is not None})
        self._matching = {
            name: StreamingEval.merge([StreamingEval.from_bytes(state.matched[name]) for state in states])
            for name in (KINDS if self.truth.masks and self._masks is not False else ("box",))
        }

    def compute(self) -> dict[str, float]:
        """`coco/box_ap`, `coco/mask_ap50`, `coco/box_ar100`, ..: COCO's twelve numbers of boxes and of masks, 0..1.

        What no object is there for (say, large ones) is left out; masks are where truth has them, and results (or there are none).
        """
        metrics: dict[str, float] = {}
        for name, found in self._finalized().items():
            metrics |= {f"coco/{name}_{part}": float(n) for part, n in zip(NUMBERS, found.stats, strict=True) if n > -1}
        if not metrics:
            log.warning("nothing to score: no objects in %d images", len(self.truth.images))
        return metrics

    def per_class(self) -> dict[int, dict[str, float]]:
        """`box_ap` and `mask_ap` of each class that an object is there of, 0..1."""
        classes: dict[int, dict[str, float]] = {}
        ids = {number: given for given, number in self.truth.numbers["category_id"].items()}
        for name, found in self._finalized().items():
            # thresholds, recalls, classes, areas (all of them first), limits of detections (100 last)
            precisions = found.eval["precision"][:, :, :, 0, -1].mean(axis=(0, 1))
            for number, ap in zip(found.params.cat_ids, precisions, strict=True):
                if ap > -1:
                    classes.setdefault(ids[number], {})[f"{name}_ap"] = float(ap)
        return classes

    def _finalized(self) -> dict[str, Any]:
        """COCO's evaluations of all images of the split, summed up; what was taken in stays as it is."""
        matching = {name: copy.copy(found) for name, found in self._matching.items()}
        self._match(matching, [image_id for image_id in self.truth.images if image_id not in self._seen], [])
        evaluations = {name: found.finalize() for name, found in matching.items()}
        for evaluation in evaluations.values():
            evaluation.accumulate()
            evaluation.summary_lines()  # fills `stats`, as summarize() does, which prints
        return evaluations

    def _note_masks(self, seen: set[bool | None]) -> None:
        """Results of a network have masks or have none: without, they are scored as boxes alone."""
        seen |= {self._masks} - {None}
        if len(seen) > 1:
            raise ValueError(
                "some results have masks (segmentation) and some have none; a network gives the one or the other"
            )
        self._masks = next(iter(seen), None)
        if self._masks is False:
            self._matching.pop("mask", None)

    def _match(
        self, matching: Mapping[str, Any], image_ids: Sequence[int], result: Sequence[Mapping[str, Any]]
    ) -> None:
        images = [
            {"id": self.truth.numbers["image_id"][image_id]}
            | {side: self.truth.images[image_id][side] for side in ("height", "width")}
            for image_id in image_ids
        ]
        annotations = [self._numbered(a) for image_id in image_ids for a in self.truth.annotations[image_id]]
        result = [self._numbered(entry) for entry in result]
        # rows as hotcoco takes them: image, x, y, width, height, score, category
        rows = [(entry["image_id"], *entry["bbox"], entry["score"], entry["category_id"]) for entry in result]
        found = np.array(rows, dtype=np.float64).reshape(-1, 7)
        # the result decides its own area, small or large, by what is scored: its mask, so it comes without its box, or its box
        masked = [{k: v for k, v in entry.items() if k != "bbox"} for entry in result] if "mask" in matching else []
        for name, evaluation in matching.items():
            evaluation.update(images, annotations, masked if name == "mask" else found)

    def _numbered(self, entry: Mapping[str, Any]) -> Entry:
        """An annotation or a result with the scorer's ids."""
        return dict(entry) | {name: number[entry[name]] for name, number in self.truth.numbers.items()}


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
