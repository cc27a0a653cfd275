"""COCO-format detection data: one annotation file and its images, as samples for training or evaluation."""

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from piip.contracts import Input, Metric
from piip.data.files import bytes_in
from piip.data.files import content as content_of_file
from piip.data.formats.base import ImageDataset
from piip.data.formats.coco_format import CocoFormat
from piip.data.formats.coco_json import Document, classes_of, read_checked
from piip.data.formats.coco_keypoints import mirrored_order
from piip.data.formats.coco_objects import Objects, objects_of
from piip.data.formats.coco_results import Results
from piip.data.images import find_images, nearly, read_image
from piip.data.repeats import repeated
from piip.data.samples import Batch, ImageInfo, Sample
from piip.data.sources import DataError, Source
from piip.data.transforms.pictures import Picture, cells_of, meeting_point, mosaic, pasted
from piip.data.transforms.recipes import cell_view, drawn_view
from piip.data.transforms.segmentation import photometric
from piip.data.transforms.views import View
from piip.metrics.coco import CocoAP
from piip.metrics.coco_truth import Truth
from piip.spec import DetectionSpec
from piip.spec.recipes import SlicesSpec

log = logging.getLogger(__name__)


class CocoDataset(CocoFormat, ImageDataset):
    """The images of a source, resized as the spec says; in training with targets, and changed as its recipe draws.

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

    def __init__(
        self, source: Source, spec: DetectionSpec, wanted: Input, *, training: bool, max_images: int | None = None
    ):
        ImageDataset.__init__(self, source, spec.broken_images, training=training)
        document = self.document(source, spec)
        self._read_digest = document.digest
        CocoFormat.__init__(self, spec, wanted, classes_of(document))
        images = sorted(document["images"], key=lambda image: image["id"])[:max_images]
        self.infos = [ImageInfo(i["id"], i["file_name"], i["height"], i["width"]) for i in images]
        self._files = _existing(source, self.infos, required=spec.broken_images == "refuse")
        # evaluation keeps the document for the metric; of training's, twenty times as large, only what is learned stays
        self._document = None if training else document
        self._mirrored = (
            mirrored_order(document, wanted.keypoints, needed=training and spec.flip > 0) if wanted.keypoints else []
        )
        self._masks = wanted.masks or (training and spec.copy_paste > 0)
        self._objects = self._learned(document) if training else {}
        if training and spec.repeat_threshold:
            labels = [
                set(self._objects[i.image_id].labels) if i.image_id in self._objects else set() for i in self.infos
            ]
            order = repeated(labels, spec.repeat_threshold)
            self.infos, self._files = [self.infos[i] for i in order], [self._files[i] for i in order]

    @classmethod
    def document(cls, source: Source, spec: Any) -> Document:
        """All there is of a split, free of faults.

        Raises:
            DataError: With the first fault, and how many there are.
        """
        del spec
        return read_checked(source.annotations)

    def _fingerprint(self) -> str:
        """Made of the annotations and of the names and sizes in bytes of the image files."""
        content = hashlib.sha256(self._read_digest or content_of_file(self.source.annotations))
        for info, path in dict.fromkeys(zip(self.infos, self._files, strict=True)):  # once, however often it comes
            content.update(f"{info.file_name}\0{bytes_in(path)}\0".encode())
        return content.hexdigest()

    @property
    def image_ids(self) -> list[int]:
        """Of the images of this split, each once."""
        return list(dict.fromkeys(info.image_id for info in self.infos))

    @cached_property
    def whole(self) -> Document:
        """All there is of the split."""
        return self._document or self.document(self.source, self.spec)

    def metric(self) -> Metric:
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
        return Truth.of(self.whole, self.image_ids, masks=self.wanted.masks, keypoints=self.wanted.keypoints > 0)

    def _learned(self, document: Document) -> dict[int, Objects]:
        try:
            objects, left_out = objects_of(
                document, self.infos, self.classes, masks=self._masks, keypoints=self.wanted.keypoints
            )
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
        return read_image(self._files[index], (info.height, info.width)), self.learned(index)

    def learned(self, index: int) -> Objects:
        """What training learns of an image, before anything is drawn."""
        return self._objects.get(self.infos[index].image_id, Objects())

    def collate(self, samples: Sequence[Sample], seed: int = 0) -> Batch:
        """Pads and stacks; in training to the recipe's square, where it has one."""
        del seed
        least = self.spec.square(self.wanted.resolution) if self.training else 0
        return Batch.of(samples, self.spec.pad_multiple, least=least)

    def _augmented(self, image: Tensor, learned: Objects, info: ImageInfo, seed: int, index: int) -> Sample:
        rng = np.random.default_rng([seed, index])
        limits = self.spec.limits(self.wanted.resolution, training=True)
        view = drawn_view(self.spec, (info.height, info.width), limits, learned.boxes_in(info), rng)
        picture = self._picture(view, image, learned, info)
        # draws of their own: what mixes images shifts no other draw
        mixing = np.random.default_rng([seed, index, 1])
        mosaic, paste = mixing.random(2) < (self.spec.mosaic, self.spec.copy_paste)
        if mosaic:
            picture = self._mosaic((image, learned, info), limits[0], mixing)
        if paste:
            other = self._usable(int(mixing.integers(len(self))))
            _, objects, whose = other
            its_view = drawn_view(self.spec, (whose.height, whose.width), limits, objects.boxes_in(whose), mixing)
            source = self._picture(its_view, *other)
            picture = pasted(picture, source, torch.from_numpy(mixing.random(len(source.labels)) < 0.5))
        seen = photometric(picture.image, rng) if self.spec.photometric else picture.image
        target = {"boxes": picture.boxes, "labels": picture.labels}
        if self.wanted.masks:
            assert picture.runs is not None
            target["mask_runs"] = picture.runs
        if picture.points is not None:
            target["keypoints"] = picture.points
        return self._sample(seen, target, info, view.scale)

    @property
    def kept_share(self) -> float:
        """Of an object's area, the least that a view shows of those that stay."""
        return self.spec.recipe.kept_share if isinstance(self.spec.recipe, SlicesSpec) else 0.0

    def _picture(self, view: View, image: Tensor, learned: Objects, info: ImageInfo) -> Picture:
        labels = torch.tensor(learned.labels, dtype=torch.int64)
        cuts = learned.cuts_in(info) if self._masks else None
        points = learned.points(self.wanted.keypoints) if self.wanted.keypoints else None
        if points is not None and view.mirrored:
            points = points[:, self._mirrored]
        return Picture.of(view, image, learned.boxes_in(info), labels, cuts, self.kept_share, points)

    def _mosaic(self, first: tuple[Tensor, Objects, ImageInfo], side: int, rng: np.random.Generator) -> Picture:
        """An image above left, three others beside and below it."""
        point = meeting_point(side, rng)
        pictures = list[Picture]()
        for cell in cells_of(side, point):
            image, learned, info = self._usable(int(rng.integers(len(self)))) if pictures else first
            view = cell_view((info.height, info.width), side, cell, rng, flip=self.spec.flip)
            pictures.append(self._picture(view, image, learned, info))
        return mosaic(pictures, side, point, self.wanted.mean)


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
