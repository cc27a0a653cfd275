"""Metrics of boxes that are matched image by image, and curves over all that matched: what VOC, Open Images and CrowdHuman share."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from piip.data.samples import ImageInfo

log = logging.getLogger(__name__)

Entry = Mapping[str, Any]
"""An image, an annotation or a result, as COCO's files have it; boxes are x, y, width, height in pixels of the file."""
Floats = NDArray[np.float64]


class Matches(NamedTuple):
    """The results that count, of one class in one image, the surest first."""

    scores: Floats
    right: Floats
    """What a result finds: 0 of a wrong one, 1 of a right one."""


class MatchedByImage(ABC):
    """Notes what becomes of each image's results; what was noted of images merges in their order, so that order of workers is nothing.

    Args:
        document: {"images", "annotations", "categories"} as COCO has it.
        image_ids: Only these images; None takes all. Those that never come count as nothing found.
    """

    def __init__(self, document: Mapping[str, Any], image_ids: Iterable[int] | None = None) -> None:
        wanted = None if image_ids is None else set(image_ids)
        self.categories: list[Entry] = sorted(document["categories"], key=lambda category: category["id"])
        self.images = {i["id"]: i for i in document["images"] if wanted is None or i["id"] in wanted}
        self.annotations: dict[int, list[Entry]] = {image_id: [] for image_id in self.images}
        for annotation in document["annotations"]:
            if annotation["image_id"] in self.images:
                self.annotations[annotation["image_id"]].append(annotation)
        self._noted: dict[int, Any] = {}

    @abstractmethod
    def _note(self, image_id: int, result: Sequence[Entry]) -> Any:
        """What becomes of an image's results, small and picklable."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """As `Metric.compute`."""

    def update(self, result: Sequence[Entry], info: "ImageInfo") -> None:
        """Matches an image's results: image_id, category_id, bbox and score.

        Raises:
            ValueError: The image is not scored or came before, or results are another image's.
        """
        odd = {entry["image_id"] for entry in result} - {info.image_id}
        if odd or info.image_id not in self.images:
            raise ValueError(
                f"results for image {min(odd, default=info.image_id)}, which is not the one that is scored"
            )
        if info.image_id in self._noted:
            raise ValueError(f"image {info.image_id} is scored already; each image comes once")
        self._noted[info.image_id] = self._note(info.image_id, result)

    def state(self) -> dict[int, Any]:
        """By image id what became of its results: scores and matches, no boxes."""
        return self._noted

    def merge(self, states: Sequence[dict[int, Any]]) -> None:
        """Take the place of the metrics whose states these are.

        Raises:
            ValueError: No states, or two that scored one image.
        """
        noted = {image_id: note for state in states for image_id, note in state.items()}
        total = sum(len(state) for state in states)
        if not states or len(noted) < total:
            raise ValueError(f"{len(states)} states to merge, of {total} images, {len(noted)} of them different")
        self._noted = noted

    def _all(self) -> list[Any]:
        """What is noted of every image of the split, in order of id."""
        return [
            self._noted[image_id] if image_id in self._noted else self._note(image_id, [])
            for image_id in sorted(self.images)
        ]


def surest_first(result: Sequence[Entry]) -> list[Entry]:
    """Equal ones in their order."""
    return sorted(result, key=lambda entry: -entry["score"])


def corners_of(entries: Sequence[Entry]) -> Floats:
    """(n, 4) x1, y1, x2, y2 of boxes x, y, width, height."""
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def intersections(corners: Floats, others: Floats, *, pixel: float = 0.0) -> Floats:
    """(n, m) areas that boxes have in common.

    Args:
        corners: (n, 4) x1, y1, x2, y2.
        others: (m, 4).
        pixel: 1 where x2 and y2 are the last pixels of a box, which belong to it.
    """
    low = np.maximum(corners[:, None, :2], others[None, :, :2])
    high = np.minimum(corners[:, None, 2:], others[None, :, 2:])
    return np.maximum(high - low + pixel, 0.0).prod(axis=2)


def areas(corners: Floats, *, pixel: float = 0.0) -> Floats:
    """(n,) areas of boxes (n, 4)."""
    return (corners[:, 2:] - corners[:, :2] + pixel).prod(axis=1)


def parts(common: Floats, whole: Floats) -> Floats:
    """(n, m) what `common` is of `whole`; 0 of boxes without area."""
    return np.divide(common, whole, out=np.zeros_like(common), where=np.broadcast_to(whole > 0, common.shape))


def joined(noted: Sequence[Matches]) -> Matches:
    """Of all images, the surest first; equal ones in the order of the images."""
    scores = np.concatenate([part.scores for part in noted] or [np.zeros(0)])
    right = np.concatenate([part.right for part in noted] or [np.zeros(0)])
    order = np.argsort(-scores, kind="stable")
    return Matches(scores[order], right[order])


def precision_recall(found: Matches, total: float) -> tuple[Floats, Floats]:
    """Precision and recall after each result, the surest first.

    Args:
        found: Of all images.
        total: What there is to be found, above 0.
    """
    right = np.cumsum(found.right)
    wrong = np.cumsum(found.right <= 0)
    return right / (right + wrong), right / total


def area_under(precision: Floats, recall: Floats) -> float:
    """Average precision as PASCAL VOC has it from 2010 on: under the curve that never rises, at every recall that is reached."""
    steps = np.concatenate([[0.0], recall, [1.0]])
    falling = np.maximum.accumulate(np.concatenate([precision, [0.0]])[::-1])[::-1]
    return float(np.sum(np.diff(steps) * falling))
