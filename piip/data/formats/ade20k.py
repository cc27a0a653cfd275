"""Semantic segmentation data: images and a map of class numbers for each, as samples for training or evaluation."""

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from piip.contracts import IGNORE, Input
from piip.data.files import bytes_in, content, is_there
from piip.data.formats.ade20k_files import (
    Pair,
    classes_of,
    labelled,
    listed,
    lookup,
    nothing_to_learn,
    pairs_of,
    read_map,
    read_photograph,
    size_of,
)
from piip.data.formats.ade20k_format import Ade20kFormat
from piip.data.formats.base import ImageDataset
from piip.data.samples import ImageInfo, Sample
from piip.data.sources import DataError, Source
from piip.data.transforms import segmentation as transforms
from piip.data.transforms.detection import normalise, resize_image
from piip.metrics.miou import MeanIoU
from piip.spec import Ade20kSpec

log = logging.getLogger(__name__)

EXAMPLES_OF = 10
"""Images looked at for each that is worth a look."""


class Ade20kDataset(Ade20kFormat, ImageDataset):
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
        ImageDataset.__init__(self, source, spec.broken_images, training=training)
        Ade20kFormat.__init__(self, spec, wanted, classes_of(source, spec))
        self._table = lookup(self.classes, spec)
        self._files = _whole(pairs_of(source), source, spec)[:max_images]
        if not any(map(self._teaches, range(len(self._files)))):  # mostly the first one does
            raise DataError(nothing_to_learn(source, len(self._files)))
        with ThreadPoolExecutor() as pool:
            sizes = list(pool.map(size_of, (map_ for _, map_ in self._files)))
        names = (image.relative_to(source.images).as_posix() for image, _ in self._files)
        self.infos = [
            ImageInfo(number, name, *size) for number, (name, size) in enumerate(zip(names, sizes, strict=True), 1)
        ]

    def _fingerprint(self) -> str:
        """Made of the classes, the maps' bytes, and of the names and sizes in bytes of the image files."""
        content = hashlib.sha256(repr(self.classes).encode())
        with ThreadPoolExecutor() as pool:
            for info, part in zip(self.infos, pool.map(_bytes_of, self._files), strict=True):
                content.update(f"{info.file_name}\0".encode() + part)
        return content.hexdigest()

    def metric(self) -> MeanIoU:
        """Mean IoU and accuracies over the images of this split."""
        places = {info.image_id: index for index, info in enumerate(self.infos)}
        return MeanIoU(list(self.names), self.infos, lambda info: self._scored(places[info.image_id]))

    def truth(self, index: int) -> NDArray[Any]:
        """The image's map, as its file has it."""
        return read_map(self._files[index][1])

    def examples(self, count: int) -> list[int]:
        """Those with the most classes, of the first images."""
        classes = {i: len(np.unique(self.truth(i))) for i in range(min(len(self), EXAMPLES_OF * count))}
        return sorted(classes, key=lambda index: (-classes[index], index))[:count]

    def _teaches(self, index: int) -> bool:
        """Whether a map has a class; one that cannot be read is told of when it is needed."""
        try:
            return bool((self._labels(index) != IGNORE).any())
        except DataError:
            return True

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
        return read_photograph(*self._files[index], (labels.shape[0], labels.shape[1])), labels

    def _labels(self, index: int) -> NDArray[np.uint16]:
        path = self._files[index][1]
        return labelled(read_map(path), self._table, path)

    def _augmented(self, image: Tensor, learned: NDArray[np.uint16], info: ImageInfo, seed: int, index: int) -> Sample:
        spec, side = self.spec, self.wanted.resolution
        # all draws always happen, so that one setting does not shift another's numbers
        rng, colour = (np.random.default_rng([seed, index, part]) for part in (0, 1))
        ratio, flipped = rng.uniform(*spec.train_ratio), rng.random() < spec.flip
        size = transforms.resized_size(
            info.height, info.width, int(side * ratio), int(transforms.ASPECT_LIMIT * side * ratio)
        )
        image, target = (
            resize_image(image, size),
            transforms.resize_labels(torch.from_numpy(learned.astype(np.int64)), size),
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


def _bytes_of(files: tuple[Path, Path]) -> bytes:
    image, map_ = files
    return f"{bytes_in(image)}\0".encode() + hashlib.sha256(content(map_) if is_there(map_) else b"").digest()
