"""LVIS v1's average precision of boxes and masks: many classes, of which each image says only of some whether they are there."""

from dataclasses import replace
from typing import ClassVar

from hotcoco import StreamingEval

from piip.metrics.coco import KINDS, CocoAP
from piip.metrics.coco_truth import Entry, Truth

LVIS_NUMBERS = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "apr", "apc", "apf",
    "ar300", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip
"""In lvis-api's order. `apr`, `apc`, `apf`: over the rare, common and frequent classes."""


class LvisAP(CocoAP):
    """Scores results as lvis-api does: the 300 surest of an image, each class only where the image was looked through for it.

    An image's objects, its `neg_category_ids` (classes that are not there) and `not_exhaustive_category_ids` (of which not all objects
    are marked) decide: results of other classes are left out, unmatched ones of the last are no mistakes (Gupta et al., LVIS, 3).
    Categories have a `frequency`: r, c or f. Objects without area (of 0 or -1) are not there, as the package reads files.
    """

    task: ClassVar[str] = "lvis"
    numbers: ClassVar[dict[str, tuple[str, ...]]] = {"box": LVIS_NUMBERS, "mask": LVIS_NUMBERS}

    def __init__(self, truth: Truth):
        there = {image_id: [a for a in those if a["area"] > 0] for image_id, those in truth.annotations.items()}
        super().__init__(replace(truth, annotations=there))

    def _matcher(self, name: str) -> StreamingEval:
        return StreamingEval(self._categories(), KINDS[name], lvis_style=True)

    def _categories(self) -> list[Entry]:
        frequency = {
            number: category["frequency"]
            for category in self.truth.categories
            for number in [self.truth.numbers["category_id"][category["id"]]]
        }
        return [category | {"frequency": frequency[category["id"]]} for category in super()._categories()]

    def _image(self, image_id: int) -> Entry:
        numbers = self.truth.numbers["category_id"]
        image = self.truth.images[image_id]
        said = {
            key: [numbers[category_id] for category_id in image.get(key, ())]
            for key in ("neg_category_ids", "not_exhaustive_category_ids")
        }
        return super()._image(image_id) | said
