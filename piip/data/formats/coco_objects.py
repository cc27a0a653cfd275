"""What training learns from a COCO-format file, image by image, in as little memory as it takes."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from piip.data.formats.coco_faults import is_degenerate
from piip.data.formats.coco_json import Document, collection_paused
from piip.data.masks import decoded
from piip.data.samples import ImageInfo
from piip.data.sources import DataError
from piip.data.transforms import detection as transforms


@dataclass
class Objects:
    """The annotations of one image that training learns from."""

    boxes: list[list[float]] = field(default_factory=list)
    """x, y, width, height in file pixels."""
    labels: list[int] = field(default_factory=list)
    segmentations: list[Any] = field(default_factory=list)
    """Empty where the head learns no masks."""

    def boxes_in(self, info: ImageInfo) -> Tensor:
        """Boxes (n, 4) xyxy in the file pixels of their image."""
        corners = torch.tensor(self.boxes, dtype=torch.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        return transforms.boxes_of(corners, (info.height, info.width))

    def masks_in(self, info: ImageInfo) -> Tensor:
        """Masks (n, H, W) uint8 in the file pixels of their image."""
        masks = torch.zeros((len(self.boxes), info.height, info.width), dtype=torch.uint8)
        for mask, segmentation in zip(masks, self.segmentations, strict=True):
            mask.copy_(torch.from_numpy(decoded(segmentation, info.height, info.width)))
        return masks


def objects_of(
    document: Document, infos: Iterable[ImageInfo], classes: Sequence[Mapping[str, Any]], *, masks: bool
) -> tuple[dict[int, Objects], int]:
    """The objects of each image that has some, by image id, and how many boxes with nothing inside their image were left out.

    Args:
        document: Free of faults.
        infos: The images.
        classes: In order of label.
        masks: Whether they are learned.

    Raises:
        DataError: A mask is to be learned and is not there.
    """
    labels = {category["id"]: label for label, category in enumerate(classes, start=1)}
    sizes = {info.image_id: (info.height, info.width) for info in infos}
    objects: dict[int, Objects] = defaultdict(Objects)
    dropped = 0
    with collection_paused():
        for annotation in document["annotations"]:
            image_id = annotation["image_id"]
            if annotation.get("iscrowd", 0) or image_id not in sizes:
                continue
            if is_degenerate(annotation["bbox"], *sizes[image_id]):
                dropped += 1
                continue
            objects[image_id].boxes.append(annotation["bbox"])
            objects[image_id].labels.append(labels[annotation["category_id"]])
            if masks:
                objects[image_id].segmentations.append(_compact(annotation))
    return dict(objects), dropped


def _compact(annotation: Mapping[str, Any]) -> Any:
    """The segmentation; polygons as arrays: COCO's 850,000 take a fifth of the memory of Python numbers."""
    segmentation = annotation.get("segmentation")
    if segmentation is None:
        raise DataError(
            f"annotation {annotation['id']} of image {annotation['image_id']} has a box and no mask (segmentation); Mask R-CNN learns "
            "masks. Add them, or train a head that learns boxes alone; scoring needs none."
        )
    return [np.asarray(polygon) for polygon in segmentation] if isinstance(segmentation, list) else segmentation
