"""Image classification from class folders: ImageNet's layout, the demo's, a user's own."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from piip.contracts import Input
from piip.data.files import bytes_in
from piip.data.formats.base import ImageDataset
from piip.data.formats.folder_format import FolderFormat, Results
from piip.data.formats.folder_listing import listed
from piip.data.images import read_image
from piip.data.samples import ImageInfo, Sample
from piip.data.sources import Source
from piip.data.transforms import classification as transforms
from piip.metrics.topk import TopK
from piip.spec import ImageNetSpec


class FolderDataset(FolderFormat, ImageDataset):
    """The images below a folder of class folders. Names of classes are those of the folders; labels count from 0 in their order.

    Heights and widths are not known before an image is decoded (0 in `infos`).

    Args:
        source: `annotations` is the folder of class folders; `images` is the same one.
        spec: How images are prepared, and what happens to broken ones.
        wanted: Side of all inputs in pixels, mean and std.
        training: Targets and augmentation, or neither.
        max_images: So many only: the first of every class, the second of every class, ..

    Raises:
        DataError: No classes, or one without images.
    """

    eval_batch = 16

    def __init__(
        self, source: Source, spec: ImageNetSpec, wanted: Input, *, training: bool, max_images: int | None = None
    ):
        ImageDataset.__init__(self, source, spec.broken_images, training=training)
        listing = listed(source.annotations)
        FolderFormat.__init__(self, spec, wanted, [{"id": k, "name": name} for k, name in enumerate(listing.classes)])
        files = listing.files[:max_images]
        self.labels = [label for label, _ in files]
        self.infos = [ImageInfo(number, name, 0, 0) for number, (_, name) in enumerate(files, start=1)]
        self._policy = transforms.Policy.of(spec.rand_augment) if spec.rand_augment else None

    def _fingerprint(self) -> str:
        """Made of the names, with their class folders, and of the sizes in bytes of the image files."""
        content = hashlib.sha256()
        for info in self.infos:
            content.update(f"{info.file_name}\0{bytes_in(self._path(info))}\0".encode())
        return content.hexdigest()

    def metric(self) -> TopK:
        """Top-1 and top-5 over the images of this split."""
        return TopK(
            {info.image_id: label for info, label in zip(self.infos, self.labels, strict=True)}, len(self.classes)
        )

    def truth(self, index: int) -> Results:
        """The class of the image at `index`."""
        category = self.classes[self.labels[index]]
        return [{"image_id": self.infos[index].image_id, "category_id": category["id"], "name": category["name"]}]

    def examples(self, count: int) -> list[int]:
        """The first images: of as many classes as there are."""
        return list(range(min(count, len(self))))

    def _read(self, index: int) -> tuple[Tensor, int]:
        return read_image(self._path(self.infos[index])), self.labels[index]

    def _augmented(self, image: Tensor, learned: int, info: ImageInfo, seed: int, index: int) -> Sample:
        rng, spec, side = np.random.default_rng([seed, index]), self.spec, self.wanted.resolution
        box = transforms.random_crop_of(info.height, info.width, spec.train_scale, rng)
        image = transforms.crop(image, box, side, spec.interpolation)
        if rng.random() < spec.flip:
            image = image.flip(-1)
        if self._policy:
            image = transforms.rand_augment(image, self._policy, self.wanted.mean, rng)
        probabilities = torch.full((len(self.classes),), spec.smoothing / len(self.classes))
        probabilities[learned] += 1 - spec.smoothing
        sample = self._sample(image, {"probabilities": probabilities}, info)
        # the last draw: without it, others stay as they are
        return replace(sample, image=transforms.erased(sample.image, rng)) if rng.random() < spec.erasing else sample

    def _path(self, info: ImageInfo) -> Path:
        return self.source.images / info.file_name
