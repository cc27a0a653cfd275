"""A made data set of COCO's size and weight: photographs of 640 x 480 and 130 KB, seven polygons of 24 corners each."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from piip.data.sources import Source

OBJECTS, HEIGHT, WIDTH = 7, 480, 640
DRAWN = 64
"""Photographs that are drawn; more are these with another comment in the file."""


def make(folder: Path, images: int) -> Source:
    """Photographs and their annotations, the same every time."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    files = [photograph(rng) for _ in range(min(images, DRAWN))]
    annotations: list[dict[str, Any]] = []
    for number in range(1, images + 1):
        comment = b"\xff\xfe\x00\x0a%08d" % number
        content = files[number % len(files)]
        (folder / "images" / f"{number:06}.jpg").write_bytes(content[:2] + comment + content[2:])
        annotations += [
            {"id": len(annotations) + k, "image_id": number, **an_object(rng)} for k in range(1, OBJECTS + 1)
        ]
    infos = [{"id": n, "file_name": f"{n:06}.jpg", "height": HEIGHT, "width": WIDTH} for n in range(1, images + 1)]
    categories = [{"id": n, "name": f"class {n}"} for n in (1, 2, 3)]
    document = {"images": infos, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(document))
    return Source(folder / "annotations.json", folder / "images")


def photograph(rng: np.random.Generator) -> bytes:
    """A JPEG of smooth colours with grain."""
    colours = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8))
    smooth = np.asarray(colours.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    grainy = smooth + rng.normal(0, 12, (HEIGHT, WIDTH, 1))
    file = io.BytesIO()
    Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(file, "jpeg", quality=88)
    return file.getvalue()


def an_object(rng: np.random.Generator) -> dict[str, Any]:
    """A polygon of 24 corners and its box."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radii = rng.uniform(15, 80) * rng.uniform(0.7, 1, 24)
    centre = rng.uniform(80, 400, 2)
    corners = (centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)).clip(0, HEIGHT).round(2)
    (x, y), (x1, y1) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    box = {"bbox": [x, y, x1 - x, y1 - y], "area": (x1 - x) * (y1 - y), "iscrowd": 0}
    return {**box, "category_id": int(rng.integers(1, 4)), "segmentation": [corners.ravel().tolist()]}
