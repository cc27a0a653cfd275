"""The demo scenes in the layouts of COCO, ADE20K and ImageNet."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from piip.data.demo.keypoints import keypoints_of
from piip.data.demo.scene import Drawn, Scene
from piip.data.demo.shapes import SHAPES
from piip.data.masks import compressed

CATEGORY_IDS = dict(zip(SHAPES, (1, 2, 3, 5, 7, 11, 18, 27, 44, 62, 78, 90), strict=True))
"""With gaps, as COCO's own ids have."""
JPEG_QUALITY = 92
_FOLDERS = {"train": ("training", "train"), "val": ("validation", "val")}


def save_jpeg(pixels: np.ndarray, path: Path) -> None:
    """Writes an RGB image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=JPEG_QUALITY)


def _segmentation(thing: Drawn, annotation_id: int) -> Any:
    """A polygon where one tells the visible part (nothing in front, no hole), else RLE: compressed and not in turns."""
    height, width = thing.mask.shape
    if not thing.occluded and len(thing.outline) == 1:
        corners = thing.outline[0].clip(0, (width, height))
        return [[round(float(v), 2) for v in corners.ravel()]]
    if annotation_id % 2:
        return compressed(thing.mask)
    column_major = thing.mask.ravel(order="F")
    # Runs of 0 and 1 in turns, the first of zeros (perhaps none).
    edges = np.flatnonzero(np.diff(column_major, prepend=False, append=not column_major[-1]))
    return {"size": [height, width], "counts": np.diff(edges, prepend=0).tolist()}


def _area_and_box(segmentation: Any, height: int, width: int) -> tuple[float, list[float]]:
    """Area in pixels and box x, y, width, height, as COCO defines them: of the segmentation."""
    if isinstance(segmentation, list):
        encoded = rle.merge(rle.frPyObjects(segmentation, height, width))
        corners = np.array(segmentation[0]).reshape(-1, 2)
        low, high = corners.min(axis=0), corners.max(axis=0)
        return float(rle.area(encoded)), [round(float(v), 2) for v in (*low, *(high - low))]
    if isinstance(segmentation["counts"], list):
        segmentation = rle.frPyObjects(segmentation, height, width)
    return float(rle.area(segmentation)), [float(v) for v in rle.toBbox(segmentation)]


class CocoWriter:
    """Collects a split's images and annotations as COCO's JSON has them."""

    def __init__(self, images: Path):
        self.images = images
        self.keypoints: list[list[float]] = []
        """Of each annotation."""
        self.document: dict[str, Any] = {
            "info": {"description": "piip demo: drawn objects on photographs"},
            "licenses": [],
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": name, "supercategory": "shape"} for name, i in CATEGORY_IDS.items()],
        }

    def add(self, scene: Scene, image_id: int) -> None:
        """Writes the image and notes its objects."""
        height, width = scene.image.shape[:2]
        file_name = f"{image_id:06d}.jpg"
        save_jpeg(scene.image, self.images / file_name)
        self.document["images"].append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for thing in scene.objects:
            annotation_id = len(self.document["annotations"]) + 1
            segmentation = _segmentation(thing, annotation_id)
            self.keypoints.append(keypoints_of(thing))
            area, box = _area_and_box(segmentation, height, width)
            self.document["annotations"].append({
                "id": annotation_id, "image_id": image_id, "category_id": CATEGORY_IDS[thing.name],
                "bbox": box, "area": area, "iscrowd": 0, "segmentation": segmentation,
            })  # fmt: skip


def add_ade20k(root: Path, scene: Scene, split: str, image_id: int) -> None:
    """The image, and a PNG of class numbers: 0 other, 1..12 in the order of `SHAPES`."""
    folder, short = _FOLDERS[split]
    name = f"ADE_{short}_{image_id:08d}"
    save_jpeg(scene.image, root / "images" / folder / f"{name}.jpg")
    classes = np.zeros(scene.image.shape[:2], dtype=np.uint8)
    numbers = {shape: number for number, shape in enumerate(SHAPES, start=1)}
    for thing in scene.objects:
        classes[thing.mask] = numbers[thing.name]
    path = root / "annotations" / folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(classes).save(path)


def add_imagenet(root: Path, scene: Scene, split: str, image_id: int) -> None:
    """A crop of every object that has its crop (nearly) to itself, in the folder of its class."""
    taken = np.any([thing.mask for thing in scene.objects], axis=0) if scene.objects else None
    for number, thing in enumerate(scene.objects):
        rows, columns = np.flatnonzero(thing.mask.any(axis=1)), np.flatnonzero(thing.mask.any(axis=0))
        margin = max(len(rows), len(columns)) // 5
        crop = (
            slice(max(rows[0] - margin, 0), rows[-1] + 1 + margin),
            slice(max(columns[0] - margin, 0), columns[-1] + 1 + margin),
        )
        assert taken is not None
        if (taken[crop] & ~thing.mask[crop]).mean() < 0.05:
            save_jpeg(scene.image[crop], root / split / thing.name / f"{image_id:06d}_{number}.jpg")
