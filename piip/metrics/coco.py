"""COCO's average precision of boxes and masks."""

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from faster_coco_eval import COCO, COCOeval_faster

if TYPE_CHECKING:
    from piip.data.samples import ImageInfo

log = logging.getLogger(__name__)

_KINDS: dict[str, Literal["bbox", "segm"]] = {"box": "bbox", "mask": "segm"}
_NUMBERS = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip
"""In pycocotools' order. Small is below 32 x 32 pixels of the file, large from 96 x 96 on."""


class CocoAP:
    """Scores results against an annotation file, with COCO's rules (crowds ignored, 100 detections an image).

    Args:
        document: The parsed annotations to score against, free of faults (see piip/data/formats/coco_json.py).
        image_ids: Only these images; None takes all. Images without any result count as nothing found.
    """

    def __init__(self, document: dict[str, Any], image_ids: Iterable[int] | None = None):
        wanted = {image["id"] for image in document["images"]}
        wanted &= wanted if image_ids is None else set(image_ids)
        annotations = [a for a in document["annotations"] if a["image_id"] in wanted]
        self.image_ids = wanted
        self._truth = COCO(
            {
                "images": [image for image in document["images"] if image["id"] in wanted],
                "annotations": [_complete(a, number) for number, a in enumerate(annotations, start=1)],
                "categories": document["categories"],
            }
        )
        self._results: list[dict[str, Any]] = []

    def update(self, result: Sequence[dict[str, Any]], info: "ImageInfo") -> None:
        """Adds an image's COCO result entries, such as `piip.data.masks.results_of` makes."""
        self.add(result)
        del info

    def add(self, results: Iterable[dict[str, Any]]) -> None:
        """Adds COCO result entries of any images."""
        results = list(results)
        unknown = sorted({result["image_id"] for result in results} - self.image_ids)
        if unknown:
            raise ValueError(f"results for {len(unknown)} images that are not scored, first image id {unknown[0]}")
        self._results += results

    def state(self) -> list[dict[str, Any]]:
        """All entries."""
        return self._results

    def merge(self, states: Sequence[list[dict[str, Any]]]) -> None:
        """Take the place of the metrics whose states these are."""
        self._results = sorted((entry for state in states for entry in state), key=lambda entry: entry["image_id"])

    def compute(self) -> dict[str, float]:
        """`coco/box_ap`, `coco/mask_ap50`, `coco/box_ar100`, ..: COCO's twelve numbers of boxes and of masks, 0..1.

        What no object is there for (say, large ones) is left out; masks are where no result has one.
        """
        metrics: dict[str, float] = {}
        for name, kind in _KINDS.items():
            if kind == "segm" and self._results and not any("segmentation" in result for result in self._results):
                continue
            numbers = self._numbers(kind)
            metrics |= {f"coco/{name}_{part}": n for part, n in zip(_NUMBERS, numbers, strict=True) if n > -1}
        return metrics

    def _numbers(self, kind: Literal["bbox", "segm"]) -> list[float]:
        # The result decides its own area, small or large, by the kind that is scored, so each gets only that.
        other = {"bbox": "segmentation", "segm": "bbox"}[kind]
        entries = [{k: v for k, v in result.items() if k != other} for result in self._results]
        evaluation = COCOeval_faster(self._truth, self._truth.loadRes(entries), kind, print_function=log.debug)
        evaluation.run()
        return [float(number) for number in evaluation.stats]


def _complete(annotation: dict[str, Any], number: int) -> dict[str, Any]:
    """With what COCO asks for and users' files often lack; ids from 1, as 0 means "unmatched" to pycocotools."""
    width, height = annotation["bbox"][2:]
    given = {key: value for key, value in annotation.items() if value is not None}
    return {"area": width * height, "iscrowd": 0} | given | {"id": number}
