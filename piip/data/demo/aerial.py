"""Large images with small objects: trees on aerial photographs, tiled, as COCO JSON and images.

The lower part of every photograph is for validation, the rest for training: no pixel is in two tiles.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from piip.data.demo import wheel as deepforest
from piip.data.demo.layouts import save_jpeg
from piip.data.demo.placing import put_in_place
from piip.data.demo.wheel import Found, Photograph
from piip.home import home
from piip.spec.recipes import Part

SPLITS = ("train", "val")
MADE = re.compile(r"recipe\.json|LICENSE\.txt|annotations/instances_(train|val)\.json|(train|val)/\d{6,}\.jpg")
"""Paths, below the folder, of all files that are made."""
KEPT_SHARE = 0.4
"""Of a box that a tile's edge cuts, what must be seen for an object; less is a crowd: neither learned nor counted."""
ATTRIBUTION = (
    "Photographs and boxes: DeepForest, a Python package (https://github.com/weecology/DeepForest), MIT licence, "
    "Copyright (c) 2019, Ben Weinstein. Cut into tiles, saved as JPEG, boxes clipped to tiles, all classes made one (tree)."
)


@dataclass(frozen=True)
class Tiling:
    """How photographs are cut."""

    tile: int = 800
    """The longest side of a tile in pixels: each part is cut into as few equal tiles as that takes."""
    val_share: float = 0.3
    """The lower part of a photograph, which is for validation."""


@dataclass
class Split:
    """COCO's document of a split, as it grows."""

    folder: Path
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, photograph: Photograph, tile: Part) -> None:
        """Writes a tile and notes what is on it."""
        top, left, height, width = tile
        image_id = len(self.images) + 1
        file_name = f"{image_id:06d}.jpg"
        save_jpeg(photograph.pixels[top : top + height, left : left + width], self.folder / file_name)
        self.images.append({
            "id": image_id, "file_name": file_name, "height": height, "width": width,
            "photograph": photograph.name, "left": left, "top": top,
        })  # fmt: skip
        for box, share in seen(photograph.boxes, tile):
            self.annotations.append({
                "id": len(self.annotations) + 1, "image_id": image_id, "category_id": 1,
                "bbox": box, "area": box[2] * box[3], "iscrowd": int(share < KEPT_SHARE),
            })  # fmt: skip

    def document(self) -> dict[str, Any]:
        """As COCO's JSON has it."""
        return {
            "info": {"description": ATTRIBUTION},
            "licenses": [{"id": 1, "name": "MIT", "url": "https://opensource.org/license/mit"}],
            "images": [image | {"license": 1} for image in self.images],
            "annotations": self.annotations,
            "categories": [{"id": 1, "name": "tree", "supercategory": "plant"}],
        }


def aerial_root() -> Path:
    """Where the aerial data of this home are: `home()/data/aerial`."""
    return home() / "data" / "aerial"


def make_aerial(out: Path, tiling: Tiling = Tiling(), wheel: Path | None = None) -> dict[str, int]:
    """Writes the data set to `out`, whole or not at all, and returns what it holds.

    Layout:
        annotations/instances_{train,val}.json and {train,val}/*.jpg, as COCO
        LICENSE.txt: whose photographs they are, and the licence
        recipe.json: what was asked for

    Args:
        out: A new folder, or one that this made before.
        tiling: How photographs are cut.
        wheel: DeepForest's; None: pip fetches it, into a folder that goes again.

    Raises:
        DataError: The wheel cannot be fetched, or lacks something.
        ValueError: There are files of somebody else in `out`.
    """

    def make(building: Path) -> dict[str, int]:
        with tempfile.TemporaryDirectory() as folder:
            found = deepforest.read(wheel or deepforest.fetch(Path(folder)))
        return _write(building, found, tiling)

    return put_in_place(out, make, made=MADE, what="aerial data")


def _write(building: Path, found: Found, tiling: Tiling) -> dict[str, int]:
    """Everything of `make_aerial`, into a folder that nobody reads yet."""
    counts: dict[str, int] = {}
    (building / "annotations").mkdir(parents=True)
    for name in SPLITS:
        split = Split(building / name)
        for photograph in found.photographs:
            height, width = photograph.pixels.shape[:2]
            for tile in tiles(height, width, tiling, val=name == "val"):
                split.add(photograph, tile)
        (building / "annotations" / f"instances_{name}.json").write_text(json.dumps(split.document()))
        crowds = sum(annotation["iscrowd"] for annotation in split.annotations)
        counts |= {f"{name}_images": len(split.images), f"{name}_objects": len(split.annotations) - crowds}
        counts[f"{name}_cut_off"] = crowds
    (building / "LICENSE.txt").write_text(f"{ATTRIBUTION}\n\n{found.licence}")
    recipe = {"kind": "aerial", "wheel": found.version, **asdict(tiling), **counts}
    (building / "recipe.json").write_text(json.dumps(recipe, indent=1))
    return counts


def tiles(height: int, width: int, tiling: Tiling, *, val: bool) -> Iterator[Part]:
    """Tiles of a photograph's upper part (training) or its lower one, row by row; they meet and do not overlap."""
    border = height - round(height * tiling.val_share)
    rows = _cuts(border, height, tiling.tile) if val else _cuts(0, border, tiling.tile)
    for top, bottom in pairwise(rows):
        for left, right in pairwise(_cuts(0, width, tiling.tile)):
            yield top, left, bottom - top, right - left


def _cuts(first: int, last: int, side: int) -> list[int]:
    """Where equal parts of at most `side` pixels begin, and where the last one ends; of nothing, there is none."""
    count = ceil((last - first) / side)
    return [first + round(k * (last - first) / count) for k in range(count + 1)] if count else []


def seen(boxes: np.ndarray, tile: Part) -> Iterator[tuple[list[float], float]]:
    """Of all boxes that a tile shows a pixel or more of: x, y, width, height in the tile's pixels, and the share that is seen."""
    top, left, height, width = tile
    low, high = (np.clip(corner - (left, top), 0, (width, height)) for corner in (boxes[:, :2], boxes[:, 2:]))
    shares = (high - low).prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for corner, size, share in zip(low, high - low, shares, strict=True):
        if size.min() >= 1:
            yield [*map(float, corner), *map(float, size)], float(share)
