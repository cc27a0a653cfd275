"""What training learns from a COCO-format file, image by image, in as little memory as it takes."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from piip.data.formats.coco_counts import fate
from piip.data.formats.coco_json import Document, collection_paused
from piip.data.runs import Cut, area, cut_out
from piip.data.samples import ImageInfo
from piip.data.sources import DataError
from piip.data.transforms import detection as transforms


@dataclass
class Objects:
    """The annotations of one image that training learns from."""

    boxes: "array[float]" = field(default_factory=lambda: array("d"))
    """x, y, width, height in file pixels, of one after the other."""
    labels: list[int] = field(default_factory=list)
    segmentations: list[Any] = field(default_factory=list)
    """Empty where the head learns no masks."""
    keypoints: list[list[float]] = field(default_factory=list)
    """x, y, visibility of each; empty where the head learns none."""

    def boxes_in(self, info: ImageInfo) -> Tensor:
        """Boxes (n, 4) xyxy in the file pixels of their image."""
        corners = torch.from_numpy(np.array(self.boxes, dtype=np.float32)).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        return transforms.boxes_of(corners, (info.height, info.width))

    def points(self, count: int) -> Tensor:
        """(n, count, 3) x and y in the file pixels of their image, and visibility."""
        return torch.tensor(self.keypoints, dtype=torch.float32).reshape(-1, count, 3)

    def cuts_in(self, info: ImageInfo) -> Iterator[Cut]:
        """The masks as far as they have pixels, in the file pixels of their image, one after the other."""
        return (cut_out(segmentation, info.height, info.width) for segmentation in self.segmentations)


def objects_of(
    document: Document,
    infos: Iterable[ImageInfo],
    classes: Sequence[Mapping[str, Any]],
    *,
    masks: bool,
    keypoints: int = 0,
) -> tuple[dict[int, Objects], Counter[str]]:
    """The objects of each image that has some, by image id, and how many were left out, by why.

    Args:
        document: Free of faults.
        infos: The images.
        classes: In order of label.
        masks: Whether they are learned.
        keypoints: How many of an object are learned; objects without any have none that is visible.

    Raises:
        DataError: A mask is to be learned and is not there, or none has a pixel.
    """
    labels = {category["id"]: label for label, category in enumerate(classes, start=1)}
    sizes = {info.image_id: (info.height, info.width) for info in infos}
    objects: dict[int, Objects] = defaultdict(Objects)
    left_out: Counter[str] = Counter()
    with collection_paused():
        for annotation in document["annotations"]:
            image_id = annotation["image_id"]
            if image_id not in sizes:
                continue
            if (becomes := fate(annotation, *sizes[image_id])) != "learned":
                left_out[becomes] += 1
                continue
            objects[image_id].boxes.extend(annotation["bbox"])
            objects[image_id].labels.append(labels[annotation["category_id"]])
            if keypoints:
                objects[image_id].keypoints.append(annotation.get("keypoints") or [0.0] * 3 * keypoints)
            if masks:
                objects[image_id].segmentations.append(_compact(annotation, document))
    if masks and objects and not _any_pixel(objects, sizes):
        raise DataError(f"none of the masks of {sum(len(o.labels) for o in objects.values())} objects has a pixel")
    return dict(objects), left_out


def _any_pixel(objects: Mapping[int, Objects], sizes: Mapping[int, tuple[int, int]]) -> bool:
    """Whether there is a mask to learn; mostly the first one is."""
    return any(area(mask, *sizes[image_id]) for image_id, those in objects.items() for mask in those.segmentations)


def _compact(annotation: Mapping[str, Any], document: Document) -> Any:
    """The segmentation; polygons as arrays: COCO's 850,000 take a fifth of the memory of Python numbers."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        raise DataError(
            f"{document.where(annotation)} has a box and no mask (segmentation); Mask R-CNN learns masks. Add them, or train a head "
            "that learns boxes alone; scoring needs none."
        )
    return [np.asarray(polygon) for polygon in segmentation] if isinstance(segmentation, list) else segmentation
