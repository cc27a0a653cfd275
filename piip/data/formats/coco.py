"""COCO-format detection data: one annotation file and its images, as samples for training or evaluation."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from piip.contracts import Input, Size
from piip.data.drawing import draw_predictions
from piip.data.formats.coco_json import collection_paused, is_degenerate, read_checked
from piip.data.images import find_images, read_image
from piip.data.masks import decoded, results_of
from piip.data.samples import Batch, ImageInfo, Sample, Target
from piip.data.sources import DataError, Source
from piip.data.transforms import detection as transforms
from piip.metrics.coco import CocoAP
from piip.spec import CocoSpec

log = logging.getLogger(__name__)


@dataclass
class _Objects:
    """The annotations of one image that training learns from."""

    boxes: list[list[float]] = field(default_factory=list)
    """x, y, width, height in file pixels."""
    labels: list[int] = field(default_factory=list)
    segmentations: list[Any] = field(default_factory=list)


class CocoFormat:
    """Detection: images resized by their long and short side; results are COCO's entries.

    Args:
        spec: How images are prepared.
        wanted: The limit of the resized long side in pixels, mean and std.
        classes: {"id", "name"} in order of label.
    """

    def __init__(self, spec: CocoSpec, wanted: Input, classes: list[dict[str, Any]]):
        self.spec, self.wanted, self.classes = spec, wanted, classes

    def prepare(self, image: Tensor, info: ImageInfo) -> Sample:
        """(3, H, W) uint8 as evaluation sees it."""
        size = self._size(info)
        return self._sample(transforms.resize_image(image, size), None, info, size)

    def collate(self, samples: Sequence[Sample], seed: int = 0) -> Batch:
        """Pads and stacks."""
        del seed
        return Batch.of(samples, self.spec.pad_multiple)

    def to_file(self, prediction: Mapping[str, Tensor], info: ImageInfo) -> list[dict[str, Any]]:
        """COCO's result entries of one image."""
        return results_of(prediction, info, self.classes)

    def draw(self, image: Image.Image, result: list[dict[str, Any]], *, score_threshold: float = 0.5) -> Image.Image:
        """Boxes, masks, names and scores."""
        names = {category["id"]: category["name"] for category in self.classes}
        return draw_predictions(image, result, names, score_threshold=score_threshold)

    def _size(self, info: ImageInfo, scale: float = 1.0) -> Size:
        return transforms.resized_size(
            info.height, info.width, self.wanted.resolution, short_ratio=self.spec.short_ratio, scale=scale
        )

    def _sample(self, resized: Tensor, target: Target | None, info: ImageInfo, size: Size) -> Sample:
        return Sample(
            image=transforms.normalise(resized, self.wanted.mean, self.wanted.std),
            target=target,
            info=replace(info, scale=(size[0] / info.height, size[1] / info.width)),
        )


class CocoDataset(CocoFormat):
    """The images of a source, resized as the spec says; in training with targets, flips and scale jitter.

    Category ids may have gaps: label k (from 1) is `classes[k - 1]`, in order of id. Images without annotations
    stay: they teach what is background. Crowd regions are no training boxes (evaluation treats them as COCO does).
    Boxes with nothing inside the image are left out and counted in `dropped`.

    Args:
        source: The files.
        spec: How images are prepared, and what happens to broken ones.
        wanted: The limit of the resized long side in pixels, mean and std.
        training: Targets and augmentation, or neither.
        max_images: Only the first of them, by image id.

    Raises:
        DataError: The files contradict themselves or an image file is missing.
    """

    eval_batch = 1

    def __init__(self, source: Source, spec: CocoSpec, wanted: Input, *, training: bool, max_images: int | None = None):
        self.source, self.training = source, training
        self.broken_images: Literal["refuse", "skip"] = spec.broken_images
        document = read_checked(source.annotations)
        classes = ({"id": c["id"], "name": c["name"]} for c in document["categories"])
        super().__init__(spec, wanted, sorted(classes, key=lambda c: c["id"]))
        images = sorted(document["images"], key=lambda image: image["id"])[:max_images]
        if not images:
            raise DataError(f"{source.annotations}: no images")
        self.infos = [ImageInfo(i["id"], i["file_name"], i["height"], i["width"]) for i in images]
        self._files = _existing(source, self.infos, required=spec.broken_images == "refuse")
        self.broken: dict[str, str] = {}
        """Images this process could not read, by file name: why."""
        self.dropped = 0
        self._digest: str | None = None
        with collection_paused():
            self._objects = self._training_objects(document) if training else {}

    def __len__(self) -> int:
        return len(self.infos)

    @property
    def digest(self) -> str:
        """Sixteen hex digits of the annotations and of the names and sizes in bytes of the image files."""
        if self._digest is None:
            content = hashlib.sha256(self.source.annotations.read_bytes())
            for info, path in zip(self.infos, self._files, strict=True):
                size = path.stat().st_size if path.exists() else -1
                content.update(f"{info.file_name}\0{size}\0".encode())
            self._digest = content.hexdigest()[:16]
        return self._digest

    def sample(self, index: int, seed: int) -> Sample:
        """The image at `index` with the augmentation that (`index`, `seed`) draws.

        Where it cannot be decoded and the spec says `skip`, training gets the next one that can be, so that epochs keep
        their length, and evaluation an error of its own (see EvalLoader).
        """
        for offset in range(len(self)):
            at = (index + offset) % len(self)
            try:
                info = self.infos[at]
                image = read_image(self._files[at], (info.height, info.width))
            except DataError as error:
                if self.spec.broken_images == "refuse" or not self.training:
                    raise
                self.note_broken(at, error)
                continue
            return self._augmented(image, info, seed, index) if self.training else self.prepare(image, info)
        raise DataError(f"{self.source.images}: none of {len(self)} images can be decoded")

    def image_error(self, index: int) -> DataError | None:
        """Why the image at `index` cannot be used; None where it can."""
        try:
            read_image(self._files[index], (self.infos[index].height, self.infos[index].width))
        except DataError as error:
            return error
        return None

    def note_broken(self, index: int, error: DataError) -> None:
        """Counts an image that is skipped; the first time it says so."""
        name = self.infos[index].file_name
        if name not in self.broken:
            log.warning("skipped: %s", error)
        self.broken[name] = str(error)

    def metric(self) -> CocoAP:
        """COCO's numbers over the images of this split."""
        return CocoAP(read_checked(self.source.annotations), image_ids=[info.image_id for info in self.infos])

    def _augmented(self, image: Tensor, info: ImageInfo, seed: int, index: int) -> Sample:
        rng = np.random.default_rng([seed, index])
        # Both draws always happen, so that one setting does not shift the other's numbers.
        scale, flipped = float(rng.choice(self.spec.train_scales)), rng.random() < self.spec.flip
        size = self._size(info, scale)
        image = transforms.resize_image(image, size)
        boxes, masks, labels = self._annotations(info)
        boxes, masks = transforms.resize_boxes(boxes, size), transforms.resize_masks(masks, size)
        if flipped:
            image, boxes, masks = transforms.flip(image, boxes, masks)
        boxes, keep = transforms.usable(boxes)
        target = {"boxes": boxes[keep], "labels": labels[keep], "masks": masks.as_subclass(Tensor)[keep]}
        return self._sample(image, target, info, size)

    def _annotations(self, info: ImageInfo) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (n, 4) xyxy, masks (n, H, W) uint8 and labels (n,) in file pixels."""
        objects = self._objects.get(info.image_id, _Objects())
        corners = torch.tensor(objects.boxes, dtype=torch.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        masks = torch.zeros((len(objects.boxes), info.height, info.width), dtype=torch.uint8)
        for mask, segmentation in zip(masks, objects.segmentations, strict=True):
            mask.copy_(torch.from_numpy(decoded(segmentation, info.height, info.width)))
        boxes = transforms.boxes_of(corners, (info.height, info.width))
        return boxes, masks, torch.tensor(objects.labels, dtype=torch.int64)

    def _training_objects(self, document: dict[str, Any]) -> dict[int, _Objects]:
        labels = {category["id"]: label for label, category in enumerate(self.classes, start=1)}
        sizes = {info.image_id: (info.height, info.width) for info in self.infos}
        objects: dict[int, _Objects] = defaultdict(_Objects)
        for annotation in document["annotations"]:
            image_id = annotation["image_id"]
            if annotation.get("iscrowd", 0) or image_id not in sizes:
                continue
            if is_degenerate(annotation["bbox"], *sizes[image_id]):
                self.dropped += 1
                continue
            objects[image_id].boxes.append(annotation["bbox"])
            objects[image_id].labels.append(labels[annotation["category_id"]])
            objects[image_id].segmentations.append(_compact(annotation["segmentation"]))
        if self.dropped:
            log.warning("%s: %d boxes with nothing inside their image left out", self.source.annotations, self.dropped)
        return dict(objects)


def _compact(segmentation: Any) -> Any:
    """Polygons as arrays: COCO's 850,000 take a fifth of the memory of Python numbers."""
    return [np.asarray(polygon) for polygon in segmentation] if isinstance(segmentation, list) else segmentation


def _existing(source: Source, infos: list[ImageInfo], *, required: bool) -> list[Path]:
    """The path of every image; where some (or, if required, any) are not there, that is said now, not at step 5,000."""
    paths = find_images(source.images, (info.file_name for info in infos))
    missing = [info for info, path in zip(infos, paths, strict=True) if path is None]
    if missing and (required or len(missing) == len(infos)):
        first = missing[0]
        raise DataError(
            f"{len(missing)} of {len(infos)} images not found in {source.images}, "
            f"first {first.file_name!r} (image {first.image_id})"
        )
    return [path or source.images / info.file_name for info, path in zip(infos, paths, strict=True)]
