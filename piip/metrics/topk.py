"""Top-1 and top-5 accuracy of image classification."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from piip.data.samples import ImageInfo

Counts = tuple[int, Counter[int], Counter[int]]
"""Images seen; by class, those of these whose class is the surest one, and among the five surest."""


class TopK:
    """Counts images whose class is the surest, or among the five surest, of a result.

    Args:
        classes: image_id -> id of its class, of all images of the split.
        num_classes: Of the data; `top5` says nothing where there are five or fewer, and is left out there.
    """

    def __init__(self, classes: Mapping[int, int], num_classes: int):
        self._classes, self._num_classes = classes, num_classes
        self._counts: Counts = (0, Counter(), Counter())

    def update(self, result: Sequence[Mapping[str, Any]], info: "ImageInfo") -> None:
        """Adds an image's classes, the surest first (see piip/data/formats/folder_format.py)."""
        if info.image_id not in self._classes:
            raise ValueError(f"a result for an image that is not scored, id {info.image_id} ({info.file_name})")
        said = [entry["category_id"] for entry in result]
        right = self._classes[info.image_id]
        seen, first, five = self._counts
        first[right] += right in said[:1]
        five[right] += right in said[:5]
        self._counts = (seen + 1, first, five)

    def state(self) -> Counts:
        """Three counts, two of them by class."""
        return self._counts

    def merge(self, states: Sequence[Counts]) -> None:
        """Take the place of the metrics whose states these are."""
        seen, first, five = zip(*states, strict=True)
        self._counts = (sum(seen), sum(first, Counter()), sum(five, Counter()))

    def compute(self) -> dict[str, float]:
        """`imagenet/top1` and, from six classes on, `imagenet/top5`, 0..1 of all images of the split."""
        seen, first, five = self._counts
        images = len(self._classes)
        if seen > images:
            raise ValueError(f"{seen} results for {images} images: an image came twice")
        accuracies = {"imagenet/top1": first.total() / images}
        return accuracies | ({"imagenet/top5": five.total() / images} if self._num_classes > 5 else {})

    def per_class(self) -> dict[int, dict[str, float]]:
        """`top1` of the images of each class, 0..1, and how many `images` these are."""
        images = Counter(self._classes.values())
        return {
            number: {"top1": self._counts[1][number] / count, "images": float(count)}
            for number, count in images.items()
        }
