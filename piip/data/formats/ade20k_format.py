"""Semantic segmentation: how images go into a network, and maps of class numbers back into files."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from piip.contracts import Input
from piip.data.formats import ade20k_results as results
from piip.data.overlays import draw_map
from piip.data.samples import Batch, ImageInfo, Sample
from piip.data.transforms import segmentation as transforms
from piip.data.transforms.detection import normalise, resize_image
from piip.spec import Ade20kSpec


class Ade20kFormat:
    """Segmentation: images resized by their short side; a result is a map (H, W) of the files' class numbers.

    Args:
        spec: How images are prepared.
        wanted: The short side in pixels, mean and std.
        classes: {"id": number in maps, "name"} in order of label, which counts from 0.
    """

    def __init__(self, spec: Ade20kSpec, wanted: Input, classes: list[dict[str, Any]]):
        self.spec, self.wanted, self.classes = spec, wanted, classes
        self.names: dict[int, str] = {c["id"]: c["name"] for c in classes}
        self._ids = np.array(list(self.names), dtype=np.uint8 if max(self.names) < 256 else np.uint16)

    def prepare(self, image: Tensor, info: ImageInfo) -> Sample:
        """(3, H, W) uint8 as evaluation sees it: the short side as trained, the long one as long as it gets."""
        size = transforms.resized_size(info.height, info.width, self.wanted.resolution)
        info = replace(info, scale=(size[0] / info.height, size[1] / info.width))
        return Sample(normalise(resize_image(image, size), self.wanted.mean, self.wanted.std), None, info)

    def collate(self, samples: Sequence[Sample], seed: int = 0) -> Batch:
        """Stacks; pads where the spec says, in evaluation."""
        del seed
        return Batch.of(samples, 1 if samples[0].target else self.spec.pad_multiple)

    def to_file(self, prediction: Mapping[str, Tensor], info: ImageInfo) -> NDArray[Any]:
        """(H, W) class numbers of the file's pixels, uint8 or uint16.

        Args:
            prediction: `logits` (classes, h, w) of the input's content.
            info: The image.
        """
        return self._ids[results.largest(prediction["logits"], (info.height, info.width)).cpu().numpy()]

    def draw(self, image: Image.Image, result: NDArray[Any], *, score_threshold: float | None = None) -> Image.Image:
        """Translucent colours and a legend; no class has a score."""
        del score_threshold
        return draw_map(image, result, self.names)

    def describe(self, result: NDArray[Any], *, score_threshold: float = 0.5) -> str:
        """`4 classes: wall 61 %, floor 22 %, bed 12 %, ..`."""
        del score_threshold
        return results.describe(result, self.names)

    def to_table(self, found: Sequence[tuple[ImageInfo, NDArray[Any]]]) -> Any:
        """A row for every class of an image, with its run lengths."""
        return results.to_table(found)

    def from_table(self, table: Any, info: ImageInfo) -> NDArray[Any]:
        """The map (H, W) of an image."""
        return results.from_table(table, info, nothing=self.spec.ignore_value)
