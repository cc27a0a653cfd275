"""One demo image: shapes painted on a crop of a photograph, with the visible mask of each."""

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from piip.data.demo.shapes import SHAPES, Shape, placed

PHOTOGRAPHS: dict[str, tuple[str, ...]] = {
    "train": (
        "skimage/astronaut.png", "skimage/coffee.png", "skimage/rocket.jpg", "skimage/motorcycle_left.png",
        "skimage/brick.png", "skimage/gravel.png", "skimage/camera.png", "sklearn/china.jpg",
    ),
    "val": (
        "skimage/chelsea.png", "skimage/grass.png", "skimage/hubble_deep_field.jpg", "skimage/moon.png",
        "sklearn/flower.jpg",
    ),
}  # fmt: skip
"""Only files inside the wheels (scikit-image fetches its others), and no scene in both splits."""

COUNT_WEIGHTS = (0.06, 0.16, 0.22, 0.22, 0.18, 0.16)
"""Chances of 0..5 objects in an image."""
MAX_OVERLAP = 0.25
"""Share of the smaller object of a pair that the other may cover; also what an object may lose in all."""
SUPERSAMPLE = 4
HUES = {name: 90.0 * (number % 4) for number, name in enumerate(SHAPES)}
"""Degrees on the colour wheel. Three of the twelve classes share a part of it, so colour alone is right one time in three."""
HUE_SPREAD = 35.0
"""Degrees either way."""


@dataclass(frozen=True)
class Drawn:
    """An object of a scene."""

    name: str
    mask: NDArray[np.bool_]
    """(H, W) the visible part."""
    outline: Shape
    """Corners in image pixels of the whole object."""
    occluded: bool


@dataclass(frozen=True)
class Scene:
    """An image and its objects, the later in front of the earlier."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    objects: list[Drawn]


@cache
def _photograph(name: str) -> Image.Image:
    package, file = name.split("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(f"the demo data needs the photographs of {package}, which is not installed. Try: make setup")
    folder = {"skimage": "data", "sklearn": "datasets/images"}[package]
    return Image.open(Path(spec.origin).parent / folder / file).convert("RGB")


def _background(rng: np.random.Generator, split: str, width: int, height: int) -> NDArray[np.float32]:
    """(H, W, 3) a crop of one of the split's photographs, perhaps mirrored, its brightness and colours a little off."""
    names = PHOTOGRAPHS[split]
    photo = _photograph(names[rng.integers(len(names))])
    largest = min(photo.width / width, photo.height / height)
    zoom = largest * rng.uniform(0.45, 1.0)
    left = rng.uniform(0, photo.width - zoom * width)
    top = rng.uniform(0, photo.height - zoom * height)
    box = (left, top, left + zoom * width, top + zoom * height)
    crop = np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC, box=box), dtype=np.float32)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return np.clip(crop * rng.uniform(0.75, 1.2) * rng.uniform(0.85, 1.15, size=3), 0, 255).astype(np.float32)


def _fill(rng: np.random.Generator, name: str, height: int, width: int) -> NDArray[np.float32]:
    """(H, W, 3) paint: plain, a gradient or stripes of two colours of the class's part of the colour wheel."""
    hue = HUES[name] + rng.uniform(-HUE_SPREAD, HUE_SPREAD, size=2)
    first, second = (_rgb(h, rng.uniform(0.5, 1.0), rng.uniform(0.4, 1.0)).astype(np.float32) for h in hue)
    turn = rng.uniform(0, np.pi)
    period = rng.uniform(6, 18) * SUPERSAMPLE
    kind = rng.choice(["plain", "gradient", "stripes"], p=[0.5, 0.35, 0.15])
    if kind == "plain":
        return np.broadcast_to(first, (height, width, 3)).copy()
    rows, columns = np.ogrid[0:height, 0:width]
    along = (rows * np.sin(turn)).astype(np.float32) + (columns * np.cos(turn)).astype(np.float32)
    rising = (along - along.min()) / max(float(np.ptp(along)), 1.0)
    mix = rising if kind == "gradient" else along % period < period / 2
    return np.asarray(first + (second - first) * np.asarray(mix, dtype=np.float32)[..., None], dtype=np.float32)


def _rgb(degrees: float, saturation: float, value: float) -> NDArray[np.float64]:
    """(3,) 0..255 of a colour given by its place on the wheel."""
    return 255 * np.array(colorsys.hsv_to_rgb(degrees / 360 % 1, saturation, value))


def _drawing(rings: Shape, size: tuple[int, int], stroke: int = 0) -> NDArray[np.uint8]:
    """(H, W) coverage 0..255 of the rings, or of a line of `stroke` pixels along them, in supersampled pixels."""
    image = Image.new("L", size)
    draw = ImageDraw.Draw(image)
    for number, ring in enumerate(rings):
        # PIL's integer coordinate is a pixel's centre, ours its corner.
        corners = [(float(x), float(y)) for x, y in ring * SUPERSAMPLE - 0.5]
        if stroke:
            draw.line([*corners, corners[0], corners[1]], fill=255, width=stroke, joint="curve")
        else:
            draw.polygon(corners, fill=0 if number else 255)
    return np.asarray(image)


def _reduced(array: NDArray) -> NDArray[np.float32]:
    """Mean over SUPERSAMPLE x SUPERSAMPLE cells."""
    height, width = array.shape[0] // SUPERSAMPLE, array.shape[1] // SUPERSAMPLE
    # rows first: whole lines add up many times as fast as cells do
    lines = array.reshape(height, SUPERSAMPLE, -1).sum(axis=1, dtype=np.float32)
    cells = lines.reshape(height, width, SUPERSAMPLE, *array.shape[2:])
    return reduce(np.add, (cells[:, :, part] for part in range(SUPERSAMPLE))) / np.float32(SUPERSAMPLE**2)


@dataclass(frozen=True)
class _Candidate:
    """An object with a place."""

    name: str
    rings: Shape
    window: tuple[slice, slice]
    alpha: NDArray[np.uint8]
    """Supersampled coverage inside the window."""
    mask: NDArray[np.bool_]
    """(H, W) the whole object."""

    @property
    def local(self) -> Shape:
        """The rings as the window sees them."""
        return _seen_from(self.window, self.rings)


def _paint(rng: np.random.Generator, canvas: NDArray[np.float32], thing: _Candidate) -> None:
    """Puts the object on the canvas, in colours that stand off from what is under it."""
    ground = canvas[thing.window]
    height, width = thing.alpha.shape
    stroke = int(rng.integers(1, 4)) * 2 * SUPERSAMPLE if rng.random() < 0.4 else 0
    line_colour = rng.choice([0.0, 255.0]) + rng.uniform(-60, 60, size=3)
    opacity = rng.uniform(0.9, 1.0)
    inside = (_reduced(thing.alpha) / 255)[..., None]
    colour = ground
    for _ in range(16):
        paint = _fill(rng, thing.name, height, width)
        if stroke:
            paint[_drawing(thing.local, (width, height), stroke) > 0] = np.clip(line_colour, 0, 255)
        colour = _reduced(paint)
        # In RGB distance, where black to white is 441: below these even a person has to search.
        distance = opacity * np.linalg.norm(colour - ground, axis=-1)[inside[..., 0] > 0.5]
        if distance.mean() > 80 and np.percentile(distance, 20) > 60:
            break
    canvas[thing.window] = ground + (colour - ground) * inside * opacity


def _window(rings: Shape, width: int, height: int) -> tuple[slice, slice]:
    """Rows and columns around the object, one pixel wider than it, inside the image."""
    low = np.floor(rings[0].min(axis=0)).astype(int) - 1
    high = np.ceil(rings[0].max(axis=0)).astype(int) + 1
    return slice(max(low[1], 0), min(high[1], height)), slice(max(low[0], 0), min(high[0], width))


def _seen_from(window: tuple[slice, slice], rings: Shape) -> Shape:
    return tuple(ring - np.array([window[1].start, window[0].start]) for ring in rings)


def _fits(mask: NDArray[np.bool_], whole: list[NDArray[np.bool_]], visible: list[NDArray[np.bool_]]) -> bool:
    """Whether a new object in front leaves every pair's overlap, and every object's loss, at MAX_OVERLAP."""
    area = mask.sum()
    for full, seen in zip(whole, visible, strict=True):
        if (mask & full).sum() > MAX_OVERLAP * min(area, full.sum()):
            return False
        if (seen & ~mask).sum() < (1 - MAX_OVERLAP) * full.sum():
            return False
    return True


def _candidate(rng: np.random.Generator, name: str, width: int, height: int, objects: tuple[int, int]) -> _Candidate:
    low, high = objects[0], min(objects[1], 0.8 * min(width, height))
    size = float(rng.uniform(low, high))
    centre = (rng.uniform(size / 2, width - size / 2), rng.uniform(size / 2, height - size / 2))
    # +-30 degrees: an arrow, a house, a triangle keep their upright look
    rings = placed(SHAPES[name], centre=centre, size=size, degrees=rng.uniform(-30, 30), aspect=rng.uniform(0.75, 1.33))
    rows, columns = window = _window(rings, width, height)
    extent = ((columns.stop - columns.start) * SUPERSAMPLE, (rows.stop - rows.start) * SUPERSAMPLE)
    alpha = _drawing(_seen_from(window, rings), extent)
    mask = np.zeros((height, width), dtype=bool)
    mask[window] = _reduced(alpha) >= 127.5
    return _Candidate(name, rings, window, alpha, mask)


def _drawn_names(rng: np.random.Generator) -> Iterator[str]:
    for _ in range(rng.choice(len(COUNT_WEIGHTS), p=COUNT_WEIGHTS)):
        yield str(rng.choice(list(SHAPES)))


def scene(
    rng: np.random.Generator,
    split: Literal["train", "val"],
    *,
    sides: tuple[int, int],
    objects: tuple[int, int],
    names: Sequence[str] | None = None,
) -> Scene:
    """Draws one image.

    Args:
        rng: Everything random comes from here.
        split: Which photographs.
        sides: Least and most pixels of width; the height is 0.75 to 1.33 of it, within the same limits.
        objects: Least and most pixels of an object's longer side.
        names: Classes of the objects, in turn; None draws their number and their classes.
    """
    width = int(rng.integers(sides[0], sides[1] + 1))
    height = int(np.clip(round(width * rng.uniform(0.75, 1.33)), *sides))
    canvas = _background(rng, split, width, height)
    placed_so_far: list[_Candidate] = []
    visible: list[NDArray[np.bool_]] = []
    for name in names if names is not None else _drawn_names(rng):
        for _ in range(20):  # places tried; a crowded image gets one object less
            new = _candidate(rng, name, width, height, objects)
            if _fits(new.mask, [old.mask for old in placed_so_far], visible):
                _paint(rng, canvas, new)
                visible = [*(seen & ~new.mask for seen in visible), new.mask]
                placed_so_far.append(new)
                break
    drawn = [
        Drawn(name=thing.name, mask=seen, outline=thing.rings, occluded=bool((seen != thing.mask).any()))
        for thing, seen in zip(placed_so_far, visible, strict=True)
    ]
    return Scene(image=np.clip(np.rint(canvas), 0, 255).astype(np.uint8), objects=drawn)
