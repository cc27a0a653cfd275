"""Semantic segmentation data: images and a map of class numbers for each, as samples for training or evaluation."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from piip.contracts import IGNORE, Input
from piip.data.formats import ade20k_results as results
from piip.data.formats.ade20k_files import Pair, classes_of, labelled, listed, lookup, pairs_of, read_map, size_of
from piip.data.images import read_image
from piip.data.overlays import draw_map
from piip.data.samples import Batch, ImageInfo, Sample
from piip.data.sources import DataError, Source
from piip.data.transforms import segmentation as transforms
from piip.data.transforms.detection import normalise, resize_image
from piip.metrics.miou import MeanIoU
from piip.spec import Ade20kSpec

log = logging.getLogger(__name__)

EXAMPLES_OF = 10
"""Images looked at for each that is worth a look."""


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


class Ade20kDataset(Ade20kFormat):
    """The images of a source with their label maps; in training crops of the network's resolution, varied as mmsegmentation does.

    An image and its map share their path below their two folders, but for the suffix.

    Args:
        source: The folder of label maps, that of images, and the names of classes.
        spec: How images are prepared, and what happens to broken ones.
        wanted: Short side and crop in pixels, mean and std.
        training: Targets and augmentation, or neither.
        max_images: Only the first of them, by name.

    Raises:
        DataError: Images without maps or maps without images (under `skip` they are left out), or nobody says what the numbers mean.
    """

    eval_batch = 1

    def __init__(
        self, source: Source, spec: Ade20kSpec, wanted: Input, *, training: bool, max_images: int | None = None
    ):
        self.source, self.training = source, training
        self.broken_images: Literal["refuse", "skip"] = spec.broken_images
        super().__init__(spec, wanted, classes_of(source, spec))
        self._table = lookup(self.classes, spec)
        self._files = _whole(pairs_of(source), source, spec)[:max_images]
        with ThreadPoolExecutor() as pool:
            sizes = list(pool.map(size_of, (map_ for _, map_ in self._files)))
        names = (image.relative_to(source.images).as_posix() for image, _ in self._files)
        self.infos = [
            ImageInfo(number, name, *size) for number, (name, size) in enumerate(zip(names, sizes, strict=True), 1)
        ]
        self.broken: dict[str, str] = {}
        """Images this process could not use, by file name: why."""
        self._digest: str | None = None

    def __len__(self) -> int:
        return len(self.infos)

    @property
    def digest(self) -> str:
        """Sixteen hex digits of the classes, the maps' bytes, and of the names and sizes in bytes of the image files."""
        if self._digest is None:
            content = hashlib.sha256(repr(self.classes).encode())
            with ThreadPoolExecutor() as pool:
                for info, part in zip(self.infos, pool.map(_fingerprint, self._files), strict=True):
                    content.update(f"{info.file_name}\0".encode() + part)
            self._digest = content.hexdigest()[:16]
        return self._digest

    def sample(self, index: int, seed: int) -> Sample:
        """The image at `index` with the augmentation that (`index`, `seed`) draws.

        Where it cannot be used and the spec says `skip`, training gets the next one that can.
        """
        for offset in range(len(self)):
            at = (index + offset) % len(self)
            try:
                image, labels = self._read(at)
            except DataError as error:
                if self.broken_images == "refuse" or not self.training:
                    raise
                self.note_broken(at, error)
                continue
            return (
                self._augmented(image, labels, self.infos[at], seed, index)
                if self.training
                else self.prepare(image, self.infos[at])
            )
        raise DataError(f"{self.source.images}: none of {len(self)} images and label maps can be used")

    def image_error(self, index: int) -> DataError | None:
        """Why the image at `index`, or its map, cannot be used; None where they can."""
        try:
            self._read(index)
        except DataError as error:
            return error
        return None

    def note_broken(self, index: int, error: DataError) -> None:
        """Counts an image that is skipped; the first time it says so."""
        name = self.infos[index].file_name
        if name not in self.broken:
            log.warning("skipped: %s", error)
        self.broken[name] = str(error)

    def metric(self) -> MeanIoU:
        """Mean IoU and accuracies over the images of this split."""
        places = {info.image_id: index for index, info in enumerate(self.infos)}
        return MeanIoU(list(self.names), self.infos, lambda info: self._scored(places[info.image_id]))

    def truth(self, index: int) -> NDArray[Any]:
        """The image's map, as its file has it."""
        return read_map(self._files[index][1])

    def examples(self, count: int) -> list[int]:
        """Of the first images, those with the most classes."""
        classes = {i: len(np.unique(self.truth(i))) for i in range(min(len(self), EXAMPLES_OF * count))}
        return sorted(classes, key=lambda index: (-classes[index], index))[:count]

    def _scored(self, index: int) -> NDArray[np.uint16]:
        """Labels to score against: of a map that cannot be read and may be skipped, none."""
        try:
            return self._labels(index)
        except DataError:
            if self.broken_images == "refuse":
                raise
            return np.full((0, 0), IGNORE, dtype=np.uint16)

    def _read(self, index: int) -> tuple[Tensor, NDArray[np.uint16]]:
        labels = self._labels(index)
        return read_image(self._files[index][0], (labels.shape[0], labels.shape[1])), labels

    def _labels(self, index: int) -> NDArray[np.uint16]:
        path = self._files[index][1]
        return labelled(read_map(path), self._table, path)

    def _augmented(self, image: Tensor, labels: NDArray[np.uint16], info: ImageInfo, seed: int, index: int) -> Sample:
        spec, side = self.spec, self.wanted.resolution
        # all draws always happen, so that one setting does not shift another's numbers
        rng, colour = (np.random.default_rng([seed, index, part]) for part in (0, 1))
        ratio, flipped = rng.uniform(*spec.train_ratio), rng.random() < spec.flip
        size = transforms.resized_size(
            info.height, info.width, int(side * ratio), int(transforms.ASPECT_LIMIT * side * ratio)
        )
        image, target = (
            resize_image(image, size),
            transforms.resize_labels(torch.from_numpy(labels.astype(np.int64)), size),
        )
        image, target = transforms.random_crop(image, target, side, rng, class_share=spec.crop_class_share)
        if flipped:
            image, target = image.flip(-1), target.flip(-1)
        if spec.photometric:
            image = transforms.photometric(image, colour)
        image, target = transforms.pad_square(normalise(image, self.wanted.mean, self.wanted.std), target, side)
        return Sample(image, {"labels": target}, replace(info, scale=(size[0] / info.height, size[1] / info.width)))


def _whole(pairs: Sequence[Pair], source: Source, spec: Ade20kSpec) -> list[tuple[Path, Path]]:
    """Images with their maps; what lacks one of the two is refused, or left out with a warning."""
    lonely = [pair.name for pair in pairs if pair.image is None or pair.map is None]
    whole = [(pair.image, pair.map) for pair in pairs if pair.image is not None and pair.map is not None]
    if lonely:
        what = (
            f"{len(lonely)} of {len(pairs)} names have no image in {source.images} or no label map in {source.annotations}: "
            f"{listed(lonely)}"
        )
        if spec.broken_images == "refuse" or not whole:
            raise DataError(
                f"{what}. They go by name, but for the suffix. To leave them out: --set data.broken_images=skip"
            )
        log.warning("left out: %s", what)
    return whole


def _fingerprint(files: tuple[Path, Path]) -> bytes:
    return f"{files[0].stat().st_size}\0".encode() + hashlib.sha256(files[1].read_bytes()).digest()
