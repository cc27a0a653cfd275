"""COCO's average precision of boxes, masks and keypoints, matched image by image as results come (hotcoco; tests: pycocotools)."""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from hotcoco import Params, StreamingEval

from piip.metrics.coco_truth import Entry, Truth

if TYPE_CHECKING:
    from piip.data.samples import ImageInfo

log = logging.getLogger(__name__)

KINDS: dict[str, Literal["bbox", "segm", "keypoints"]] = {"box": "bbox", "mask": "segm", "keypoint": "keypoints"}
"""Our name -> COCO's."""
FIELDS = {"mask": "segmentation", "keypoint": "keypoints"}
"""What a result has of each kind besides its box."""
BARE = ("image_id", "category_id", "score")
NUMBERS = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip
"""In pycocotools' order. Small is below 32 x 32 pixels of the file, large from 96 x 96 on."""
KEYPOINT_NUMBERS = ("ap", "ap50", "ap75", "ap_medium", "ap_large", "ar", "ar50", "ar75", "ar_medium", "ar_large")
"""In pycocotools' order, of the 20 surest detections of an image."""


@dataclass(frozen=True)
class State:
    """What a metric has taken in: scores and matches, some 22 bytes a detection and kind; no boxes, no masks."""

    image_ids: list[int]
    has: dict[str, bool | None]
    """Kind -> whether results had such; None where nothing was found in any image."""
    matched: dict[str, bytes]
    """Kind -> hotcoco's state."""


class CocoAP:
    """Scores results with COCO's rules: crowds ignored, the 100 surest detections of an image.

    Args:
        truth: What is there. Images without any result count as nothing found.
    """

    task: ClassVar[str] = "coco"
    numbers: ClassVar[dict[str, tuple[str, ...]]] = {"box": NUMBERS, "mask": NUMBERS, "keypoint": KEYPOINT_NUMBERS}

    def __init__(self, truth: Truth):
        self.truth = truth
        self._seen: set[int] = set()
        self._has: dict[str, bool | None] = dict.fromkeys(FIELDS)
        asked = {"box": True, "mask": truth.masks, "keypoint": bool(truth.sigmas)}
        self._matching = {name: self._matcher(name) for name in self.numbers if asked[name]}

    def _matcher(self, name: str) -> StreamingEval:
        kind = KINDS[name]
        params = Params(kind)
        if name == "keypoint":
            params.kpt_oks_sigmas = list(self.truth.sigmas)
        return StreamingEval(self._categories(), kind, params=params)

    def _categories(self) -> list[Entry]:
        numbers = self.truth.numbers["category_id"]
        ordered = sorted(self.truth.categories, key=lambda category: category["id"])
        return [{"id": numbers[category["id"]], "name": category["name"]} for category in ordered]

    def _image(self, image_id: int) -> Entry:
        """What the scorer is to know of an image."""
        image = self.truth.images[image_id]
        return {"id": self.truth.numbers["image_id"][image_id], "height": image["height"], "width": image["width"]}

    def update(self, result: Sequence[Mapping[str, Any]], info: "ImageInfo") -> None:
        """Match an image's result entries: image_id, category_id, bbox and score.

        Of a mask head they have segmentation (compressed RLE), too, of a keypoint head keypoints (x, y, any number, for each).

        Raises:
            ValueError: The image is not scored or came before, or only some results have masks or keypoints.
        """
        odd = {entry["image_id"] for entry in result} - {info.image_id}
        if odd or info.image_id not in self.truth.images:
            raise ValueError(
                f"results for image {min(odd, default=info.image_id)}, which is not the one that is scored"
            )
        if info.image_id in self._seen:
            raise ValueError(f"image {info.image_id} is scored already; each image comes once")
        for name, field in FIELDS.items():
            self._note(name, {field in entry for entry in result})
        self._seen.add(info.image_id)
        self._match(self._matching, [info.image_id], result)

    def state(self) -> State:
        """All that has been taken in."""
        matched = {name: matching.to_bytes() for name, matching in self._matching.items()}
        return State(sorted(self._seen), dict(self._has), matched)

    def merge(self, states: Sequence[State]) -> None:
        """Take the place of the metrics whose states these are; the order changes no bit.

        Raises:
            ValueError: No states, two that scored one image, or only some with masks.
        """
        ids = [image_id for state in states for image_id in state.image_ids]
        if not states or len(set(ids)) < len(ids):
            raise ValueError(f"{len(states)} states to merge, of {len(ids)} images, {len(set(ids))} of them different")
        self._seen, self._has = set(ids), dict.fromkeys(FIELDS)
        for name in FIELDS:
            self._note(name, {state.has[name] for state in states} - {None})
        self._matching = {
            name: StreamingEval.merge([StreamingEval.from_bytes(state.matched[name]) for state in states])
            for name in self._matching
        }

    def compute(self) -> dict[str, float]:
        """`coco/box_ap`, `coco/mask_ap50`, `coco/keypoint_ar`, ..: COCO's numbers of boxes, of masks and of keypoints, 0..1.

        What no object is there for (say, large ones) is left out; masks and keypoints are where truth has them, and results (or
        there are none).
        """
        metrics: dict[str, float] = {}
        for name, found in self._finalized().items():
            numbers = zip(self.numbers[name], found.stats, strict=True)
            metrics |= {f"{self.task}/{name}_{part}": float(number) for part, number in numbers if number > -1}
        if not metrics:
            log.warning("nothing to score: no objects in %d images", len(self.truth.images))
        return metrics

    def per_class(self) -> dict[int, dict[str, float]]:
        """`box_ap`, `mask_ap` and `keypoint_ap` of each class that an object is there of, 0..1."""
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

    def _note(self, name: str, seen: set[bool | None]) -> None:
        """Results of a network have masks (keypoints) or have none: without, they are scored as boxes alone."""
        seen = seen | ({self._has[name]} - {None})
        if len(seen) > 1:
            raise ValueError(
                f"some results have {name}s ({FIELDS[name]}) and some have none; a network gives the one or the other"
            )
        self._has[name] = next(iter(seen), None)
        if self._has[name] is False:
            self._matching.pop(name, None)

    def _match(
        self, matching: Mapping[str, Any], image_ids: Sequence[int], result: Sequence[Mapping[str, Any]]
    ) -> None:
        images = [self._image(image_id) for image_id in image_ids]
        annotations = [self._numbered(a) for image_id in image_ids for a in self.truth.annotations[image_id]]
        result = [self._numbered(entry) for entry in result]
        # rows as hotcoco takes them: image, x, y, width, height, score, category
        rows = [(entry["image_id"], *entry["bbox"], entry["score"], entry["category_id"]) for entry in result]
        found = np.array(rows, dtype=np.float64).reshape(-1, 7)
        for name, evaluation in matching.items():
            # the result decides its own area, small or large, by what is scored, so its mask or keypoints come alone
            alone = [{k: entry[k] for k in (*BARE, FIELDS[name])} for entry in result] if name in FIELDS else found
            evaluation.update(images, annotations, alone)

    def _numbered(self, entry: Mapping[str, Any]) -> Entry:
        """An annotation or a result with the scorer's ids."""
        return dict(entry) | {name: number[entry[name]] for name, number in self.truth.numbers.items()}
