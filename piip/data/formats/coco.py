"""COCO-format detection data: one annotation file and its images, as samples for training or evaluation."""

import hashlib
import logging
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from piip.contracts import Input
from piip.data.files import bytes_in
from piip.data.formats.base import ImageDataset
from piip.data.formats.coco_format import CocoFormat
from piip.data.formats.coco_json import Document, classes_of, read_checked
from piip.data.formats.coco_objects import Objects, objects_of
from piip.data.formats.coco_results import Results
from piip.data.images import find_images, nearly, read_image
from piip.data.samples import ImageInfo, Sample
from piip.data.sources import DataError, Source
from piip.data.transforms import cuts
from piip.data.transforms import detection as transforms
from piip.metrics.coco import CocoAP, Truth
from piip.ops.mask_runs import kept
from piip.spec import CocoSpec

log = logging.getLogger(__name__)


class CocoDataset(CocoFormat, ImageDataset):
    """The images of a source, resized as the spec says; in training with targets, flips and scale jitter.

    Category ids may have gaps: label k (from 1) is `classes[k - 1]`, in order of id. Images without annotations
    stay: they teach what is background. Crowd regions are no training boxes (evaluation treats them as COCO does).
    Boxes with nothing inside the image are left out, with a warning.

    Args:
        source: The files.
        spec: How images are prepared, and what happens to broken ones.
        wanted: The limit of the resized long side in pixels, mean and std.
        training: Targets and augmentation, or neither.
        max_images: Only the first of them, by image id.

    Raises:
        DataError: The files contradict themselves, an image file is missing, or masks that the head learns from are.
    """

    eval_batch = 1

    def __init__(self, source: Source, spec: CocoSpec, wanted: Input, *, training: bool, max_images: int | None = None):
        ImageDataset.__init__(self, source, spec.broken_images, training=training)
        document = read_checked(source.annotations)
        CocoFormat.__init__(self, spec, wanted, classes_of(document))
        images = sorted(document["images"], key=lambda image: image["id"])[:max_images]
        self.infos = [ImageInfo(i["id"], i["file_name"], i["height"], i["width"]) for i in images]
        self._files = _existing(source, self.infos, required=spec.broken_images == "refuse")
        # evaluation keeps the document for the metric; of training's, twenty times as large, only what is learned stays
        self._document = None if training else document
        self._objects = self._learned(document) if training else {}

    def _fingerprint(self) -> str:
        """Made of the annotations and of the names and sizes in bytes of the image files."""
        content = hashlib.sha256(self.source.annotations.read_bytes())
        for info, path in zip(self.infos, self._files, strict=True):
            content.update(f"{info.file_name}\0{bytes_in(path)}\0".encode())
        return content.hexdigest()

    def metric(self) -> CocoAP:
        """COCO's numbers over the images of this split."""
        return CocoAP(self._truth)

    def truth(self, index: int) -> Results:
        """The annotations of an image."""
        return self._truth.annotations[self.infos[index].image_id]

    def examples(self, count: int) -> list[int]:
        """The images with the most objects."""
        fullest_first = sorted(range(len(self)), key=lambda index: (-len(self.truth(index)), index))
        return fullest_first[:count]

    @cached_property
    def _truth(self) -> Truth:
        document = self._document or read_checked(self.source.annotations)
        return Truth.of(document, (info.image_id for info in self.infos), masks=self.wanted.masks)

    def _learned(self, document: Document) -> dict[int, Objects]:
        try:
            objects, left_out = objects_of(document, self.infos, self.classes, masks=self.wanted.masks)
        except DataError as error:
            raise DataError(f"{self.source.annotations}: {error}") from None
        for why, count in left_out.items():
            log.log(
                logging.INFO if why == "crowds" else logging.WARNING,
                "%s: %d boxes left out of training: %s",
                self.source.annotations, count, why,
            )  # fmt: skip
        return objects

    def _read(self, index: int) -> tuple[Tensor, Objects]:
        info = self.infos[index]
        image = read_image(self._files[index], (info.height, info.width))
        return image, self._objects.get(info.image_id, Objects())

    def _augmented(self, image: Tensor, learned: Objects, info: ImageInfo, seed: int, index: int) -> Sample:
        rng = np.random.default_rng([seed, index])
        # Both draws always happen, so that one setting does not shift the other's numbers.
        scale, flipped = float(rng.choice(self.spec.train_scales)), rng.random() < self.spec.flip
        size = self._size(info, training=True, scale=scale)
        image = transforms.resize_image(image, size)
        boxes = transforms.resize_boxes(learned.boxes_in(info), size)
        runs = None
        if self.wanted.masks:
            runs = cuts.resized(learned.cuts_in(info), (info.height, info.width), size)
        if flipped:
            image, boxes, runs = transforms.flip(image, boxes, runs)
        boxes, keep = transforms.usable(boxes)
        target = {"boxes": boxes[keep], "labels": torch.tensor(learned.labels, dtype=torch.int64)[keep]}
        if runs is not None:
            target["mask_runs"] = kept(runs, keep)
        return self._sample(image, target, info, size)


def _existing(source: Source, infos: list[ImageInfo], *, required: bool) -> list[Path]:
    """The path of every image; where some (or, if required, any) are not there, that is said now, not at step 5,000."""
    paths = find_images(source.images, (info.file_name for info in infos))
    missing = [info for info, path in zip(infos, paths, strict=True) if path is None]
    if missing and (required or len(missing) == len(infos)):
        first = missing[0]
        raise DataError(
            f"{len(missing)} of {len(infos)} images not found in {source.images}, "
            f"first {first.file_name!r} (image {first.image_id}){nearly(source.images, first.file_name)}"
        )
    return [path or source.images / info.file_name for info, path in zip(infos, paths, strict=True)]
