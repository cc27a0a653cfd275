"""Draws the demo data and puts it in place, whole or not at all.

The shape tells the class; the colour narrows it to three of the twelve. Pattern, outline, opacity, proportions and tilt vary freely.
"""

import hashlib
import json
import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock

from piip.data.demo.keypoints import with_keypoints
from piip.data.demo.layouts import CocoWriter, add_ade20k, add_imagenet
from piip.data.demo.placing import put_in_place
from piip.data.demo.scene import scene
from piip.data.demo.shapes import SHAPES
from piip.home import home

log = logging.getLogger(__name__)

CROPS, MAPS = 1, 2
"""Set the random streams of crops, and of images with label maps, apart from those of images with boxes."""


@dataclass(frozen=True)
class Recipe:
    """What is drawn. Equal recipes give equal bytes (on equal versions of numpy and Pillow)."""

    train: int = 280
    val: int = 80
    """Images of the two splits."""
    maps: int = 2
    """Images with a label map for every one with boxes, in training; in validation one. They are scenes of their
    own, full of objects as ADE20K's are: of three in an image a segmenter learns mostly the photograph behind them."""
    crops: int = 8
    """Crops of single objects for every image of a split, the twelve classes in turn."""
    seed: int = 0
    sides: tuple[int, int] = (160, 288)
    """Least and most pixels of an image's width."""
    objects: tuple[int, int] = (20, 120)
    """Least and most pixels of an object's longer side."""

    def __post_init__(self) -> None:
        if self.train < 1 or self.val < 1:
            raise ValueError(f"a split needs at least one image, got train {self.train}, val {self.val}")
        if self.maps < 1 or self.crops < 1:
            raise ValueError(
                f"every image has a map and crops of its own, at least 1, got maps {self.maps}, crops {self.crops}"
            )
        if self.seed < 0:
            raise ValueError(f"a seed is a whole number from 0 on, got {self.seed}")
        if not 0 < self.sides[0] <= self.sides[1] <= 1024:
            raise ValueError(f"image sides go from small to large, at most 1024 px, got {self.sides}")
        if not 4 <= self.objects[0] <= min(self.objects[1], 0.8 * self.sides[0]):
            raise ValueError(f"objects go from 4 px to 0.8 x the smallest image {self.sides[0]}, got {self.objects}")

    @property
    def digest(self) -> str:
        """Changes with these numbers and with the code that draws."""
        code = hashlib.sha256(json.dumps(asdict(self)).encode())
        for part in ("make.py", "shapes.py", "scene.py", "layouts.py", "keypoints.py"):
            code.update((Path(__file__).parent / part).read_bytes())
        return code.hexdigest()[:16]


def make_demo(out: Path, recipe: Recipe = Recipe()) -> dict[str, int]:
    """Writes the data set to `out`, whole or not at all, and returns what it holds.

    Layout:
        annotations/instances_{train,val}.json and {train,val}/*.jpg, as COCO
        annotations/keypoints_{train,val}.json: the same objects with four keypoints each
        ade20k/{images,annotations}/{training,validation}: class numbers from 1, 0 = other
        imagenet/{train,val}/<class>/*.jpg: crops of single objects
        recipe.json: what was asked for
    """
    return put_in_place(out, lambda building: _draw(building, recipe), made=MADE, what="demo data")


def _draw(building: Path, recipe: Recipe) -> dict[str, int]:
    """Everything of `make_demo`, into a folder that nobody reads yet."""
    building.mkdir()
    counts: dict[str, int] = {}
    splits: tuple[tuple[Literal["train", "val"], int], ...] = (("train", recipe.train), ("val", recipe.val))
    for number, (split, num_images) in enumerate(splits):
        num_objects = _draw_images(building, recipe, number, split, num_images)
        _draw_maps(building / "ade20k", recipe, number, split, num_images * (recipe.maps if split == "train" else 1))
        _draw_crops(building / "imagenet", recipe, number, split, num_images * recipe.crops)
        counts |= {f"{split}_images": num_images, f"{split}_objects": num_objects}
        for what, pattern in (("maps", f"ade20k/annotations/{split}*/*.png"), ("crops", f"imagenet/{split}/*/*.jpg")):
            counts[f"{split}_{what}"] = len(list(building.glob(pattern)))
    (building / "ade20k" / "classes.txt").write_text("".join(f"{name}\n" for name in ("other", *SHAPES)))
    (building / "recipe.json").write_text(json.dumps({"digest": recipe.digest, **asdict(recipe), **counts}, indent=1))
    return counts


MADE = re.compile(
    r"recipe\.json|annotations/(instances|keypoints)_(train|val)\.json|(train|val)/\d{6,}\.jpg|ade20k/classes\.txt"
    r"|ade20k/(images|annotations)/(training|validation)/ADE_(train|val)_\d{8,}\.(jpg|png)|imagenet/(train|val)/\w+/\d{6,}_\d+\.jpg"
)
"""Paths, below the folder, of all files that drawing makes."""


def _draw_images(out: Path, recipe: Recipe, number: int, split: Literal["train", "val"], num_images: int) -> int:
    """Images with boxes and masks; gives the number of boxes."""
    coco = CocoWriter(out / split)
    for image_id in range(1, num_images + 1):
        # one stream per image: the first hundred images are the same whether two hundred follow or not
        rng = np.random.default_rng([recipe.seed, number, image_id])
        coco.add(scene(rng, split, sides=recipe.sides, objects=recipe.objects), image_id)
    path = out / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(coco.document))
    with_points = json.dumps(with_keypoints(coco.document, coco.keypoints))
    path.with_name(f"keypoints_{split}.json").write_text(with_points)
    return len(coco.document["annotations"])


def _draw_maps(out: Path, recipe: Recipe, number: int, split: Literal["train", "val"], count: int) -> None:
    """Images with label maps: six to twelve objects, as far as there is room."""
    for image_id in range(1, count + 1):
        rng = np.random.default_rng([recipe.seed, number, image_id, MAPS])
        names = [str(name) for name in rng.choice(list(SHAPES), size=rng.integers(6, 13))]
        add_ade20k(out, scene(rng, split, sides=recipe.sides, objects=recipe.objects, names=names), split, image_id)


def _draw_crops(out: Path, recipe: Recipe, number: int, split: Literal["train", "val"], count: int) -> None:
    """Single objects on small images, the classes in turn."""
    sides = (round(1.5 * recipe.objects[0]), round(1.5 * recipe.objects[1]))
    names = list(SHAPES)
    for crop_id in range(count):
        rng = np.random.default_rng([recipe.seed, number, crop_id, CROPS])
        alone = scene(rng, split, sides=sides, objects=recipe.objects, names=[names[crop_id % len(names)]])
        add_imagenet(out, alone, split, crop_id)


def demo_root() -> Path:
    """Where the demo data of this home is: `home()/data/demo`."""
    return home() / "data" / "demo"


def ensure_demo(root: Path | None = None, recipe: Recipe = Recipe()) -> Path:
    """Makes the demo data in `root` (default `demo_root()`) unless this recipe's is there, and returns the folder.

    Two processes may call it at once: one draws, the other waits.
    """
    root = root or demo_root()
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name(f".{root.name}.lock")):
        note = root / "recipe.json"
        if not note.exists() or json.loads(note.read_text()).get("digest") != recipe.digest:
            log.warning("drawing the demo data: %d + %d images into %s", recipe.train, recipe.val, root)
            make_demo(root, recipe)
    return root
