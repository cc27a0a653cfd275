"""How well label maps agree, as mmsegmentation counts: mean intersection over union, pixel accuracy, mean class accuracy."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from piip.data.samples import ImageInfo


class MeanIoU:
    """Pixels of all images counted by true and predicted class; the order of images and workers does not matter.

    A class that is neither there nor predicted anywhere is left out of the means; one that is predicted and not there counts as an
    IoU of 0, and is left out of the mean accuracy.

    Args:
        ids: The files' numbers of the classes, in order of label.
        infos: All images of the split; what is never updated counts as nothing found.
        truth: An image's labels (H, W), `len(ids)` or more where a pixel is not scored.
    """

    def __init__(
        self, ids: Sequence[int], infos: "Sequence[ImageInfo]", truth: "Callable[[ImageInfo], NDArray[Any]]"
    ) -> None:
        self.ids, self.count, self._infos, self._truth = list(ids), len(ids), infos, truth
        self._label = np.full(2**16, self.count, dtype=np.int64)
        self._label[list(ids)] = np.arange(self.count)
        self._confusion: NDArray[np.int64] = np.zeros((self.count, self.count + 1), dtype=np.int64)
        """[true, predicted] -> pixels; the last column: nothing was predicted."""
        self._seen: set[int] = set()

    def update(self, result: NDArray[Any], info: "ImageInfo") -> None:
        """Counts an image.

        Args:
            result: (H, W) class numbers of the files, of every pixel.
            info: The image.

        Raises:
            ValueError: Another size than the truth's.
        """
        truth = self._truth(info)
        if result.shape != truth.shape:
            raise ValueError(f"{info.file_name}: a result of {result.shape} for a truth of {truth.shape} pixels")
        self._confusion += self._counted(truth, self._label[result])
        self._seen.add(info.image_id)

    def state(self) -> tuple[NDArray[np.int64], set[int]]:
        """The counts, and ids of the images in them."""
        return self._confusion, self._seen

    def merge(self, states: "Sequence[tuple[NDArray[np.int64], set[int]]]") -> None:
        """Take the place of the metrics whose states these are."""
        self._confusion = np.stack([counts for counts, _ in states]).sum(axis=0)
        self._seen = {image_id for _, seen in states for image_id in seen}

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(classes, classes + 1) of all images of the split, those that never came among them."""
        total = self._confusion.copy()
        for info in self._infos:
            if info.image_id not in self._seen:
                truth = self._truth(info)
                total += self._counted(truth, np.full(truth.shape, self.count))
        return total

    def _counted(self, truth: NDArray[Any], predicted: NDArray[np.int64]) -> NDArray[np.int64]:
        scored = truth < self.count
        pairs = truth[scored].astype(np.int64) * (self.count + 1) + predicted[scored]
        return np.bincount(pairs, minlength=self._confusion.size).reshape(self._confusion.shape)

    def per_class(self) -> dict[int, dict[str, float]]:
        """`iou`, and `acc` where the class is there; a class that is neither there nor predicted has none."""
        confusion = self.confusion
        numbers = {"iou": _iou(confusion), "acc": _divided(confusion.diagonal(), confusion.sum(axis=1))}
        of_each = {
            number: {name: float(values[label]) for name, values in numbers.items() if not np.isnan(values[label])}
            for label, number in enumerate(self.ids)
        }
        return {number: found for number, found in of_each.items() if found}

    def compute(self) -> dict[str, float]:
        """`ade20k/miou`, `ade20k/acc` (of pixels), `ade20k/macc` (mean over classes), 0..1; none where no pixel is scored."""
        confusion = self.confusion
        there, both = confusion.sum(axis=1), confusion.diagonal()
        if not there.any():
            return {}
        return {
            "ade20k/miou": float(np.nanmean(_iou(confusion))),
            "ade20k/acc": float(both.sum() / there.sum()),
            "ade20k/macc": float(np.nanmean(_divided(both, there))),
        }


def _iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    both = confusion.diagonal()
    return _divided(both, confusion.sum(axis=0)[:-1] + confusion.sum(axis=1) - both)


def _divided(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Part by part; nan where there is nothing to divide."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
