"""COCO-format detection without files: how an image goes into a network, and what comes out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
from PIL import Image
from torch import Tensor

from piip.contracts import Input, Size
from piip.data.drawing import draw_predictions
from piip.data.formats import coco_results
from piip.data.formats.coco_results import Results
from piip.data.masks import results_of
from piip.data.merging import merged
from piip.data.samples import Batch, ImageInfo, Sample, Target
from piip.data.transforms import detection as transforms
from piip.data.transforms.views import View
from piip.spec import DetectionSpec


class CocoFormat:
    """Detection: images resized by their long and short side; results are COCO's entries.

    Args:
        spec: How images are prepared.
        wanted: The limit of the resized long side in pixels, mean and std.
        classes: {"id", "name"} in order of label; `skeleton` where it says how keypoints are joined.
    """

    def __init__(self, spec: DetectionSpec, wanted: Input, classes: list[dict[str, Any]]):
        self.spec, self.wanted, self.classes = spec, wanted, classes

    def prepare(self, image: Tensor, info: ImageInfo) -> Sample:
        """(3, H, W) uint8 as evaluation sees it."""
        view = View.of_all((info.height, info.width), self._size(info.height, info.width))
        sample = self._sample(view.image(image), None, info, view.scale)
        return replace(sample, file=image) if self.spec.views else sample

    def views(self, file: Tensor, info: ImageInfo) -> Iterator[tuple[View, Batch]]:
        """What `data.views` says, each resized by the limits of evaluation."""
        assert self.spec.views is not None
        for seen in self.spec.views.of(info.height, info.width):
            size = self._size(*seen.part[2:], scale=seen.scale)
            view = View((info.height, info.width), seen.part, size, seen.mirrored)
            yield view, Batch.of([self._sample(view.image(file), None, info, view.scale)], self.spec.pad_multiple)

    def merged(
        self, seen: Sequence[tuple[View, Mapping[str, Tensor]]], info: ImageInfo
    ) -> tuple[dict[str, Tensor], ImageInfo]:
        """Detections in the file's own pixels."""
        assert self.spec.views is not None
        return merged(seen, self.spec.views), replace(info, scale=(1.0, 1.0))

    def collate(self, samples: Sequence[Sample], seed: int = 0) -> Batch:
        """Pads and stacks."""
        del seed
        return Batch.of(samples, self.spec.pad_multiple)

    def to_file(self, prediction: Mapping[str, Tensor], info: ImageInfo) -> Results:
        """COCO's result entries of one image."""
        return results_of(prediction, info, self.classes)

    def draw(self, image: Image.Image, result: Results, *, score_threshold: float | None = 0.5) -> Image.Image:
        """Boxes, masks, names and scores."""
        names = {category["id"]: category["name"] for category in self.classes}
        threshold = coco_results.telling_threshold(result) if score_threshold is None else score_threshold
        lines = {c["id"]: [(a - 1, b - 1) for a, b in c["skeleton"]] for c in self.classes if "skeleton" in c}
        return draw_predictions(image, result, names, score_threshold=threshold, lines=lines)

    def describe(self, result: Results, *, score_threshold: float = 0.5) -> str:
        """How many objects are sure enough."""
        return coco_results.describe(result, score_threshold=score_threshold)

    def to_table(self, results: Sequence[tuple[ImageInfo, Results]]) -> pa.Table:
        """A row a result entry."""
        return coco_results.to_table(results, keypoints=self.wanted.keypoints > 0)

    def from_table(self, table: pa.Table, info: ImageInfo) -> Results:
        """The entries of an image; none where nothing was found."""
        return coco_results.from_table(table, info)

    def _size(self, height: int, width: int, *, scale: float = 1.0) -> Size:
        limits = self.spec.limits(self.wanted.resolution, training=False)
        return transforms.resized_size(height, width, limits, scale=scale)

    def _sample(self, seen: Tensor, target: Target | None, info: ImageInfo, scale: tuple[float, float]) -> Sample:
        return Sample(
            image=transforms.normalise(seen, self.wanted.mean, self.wanted.std),
            target=target,
            info=replace(info, scale=scale),
        )
