"""Builds segmentation data: images and label maps in two folders, names beside them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from piip.data.sources import Source


@dataclass
class MapFolder:
    root: Path

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def maps(self) -> Path:
        return self.root / "annotations"

    def add(self, name: str, numbers, *, pixels=None, map_suffix=".png") -> None:
        """An image of the map's size (random unless given) and the map, 8 or 16 bits as its type says."""
        numbers = np.asarray(numbers)
        if pixels is None:
            pixels = np.random.default_rng(len(name)).integers(0, 255, (*numbers.shape, 3), dtype=np.uint8)
        for folder, what, suffix in ((self.images, pixels, ".jpg"), (self.maps, numbers, map_suffix)):
            path = (folder / name).with_suffix(suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(what).save(path)

    def name_classes(self, *names: str) -> None:
        (self.maps / "classes.txt").write_text("".join(f"{name}\n" for name in names))

    @property
    def source(self) -> Source:
        return Source(self.maps, self.images)


def stripes(height: int, width: int, numbers=(1, 2, 3), dtype=np.uint8):
    """(height, width) of columns, each one of `numbers` in turn."""
    return np.resize(np.asarray(numbers, dtype=dtype), width)[None].repeat(height, axis=0)
