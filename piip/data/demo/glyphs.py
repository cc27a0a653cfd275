"""Made-up images that pretrain pico branches: letters and digits on procedural grounds, with dense targets.

Nothing of the demo data is in here: no photograph, none of its shapes (O and 0 stay out: they are rings), other fills.
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

GLYPHS = "ABCDEFGHIJKLMNPQRSTUVWXYZ23456789"
"""Classes 1, 2, ..."""
STYLES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
)  # fmt: skip
"""Fonts inside the matplotlib wheel."""
SIZES = (16.0, 120.0)
"""Longer side of a glyph in pixels, log-uniform."""
MAX_GLYPHS = 4
_MASTER = 96
"""Points at which glyphs are drawn once, to be resized from."""


@dataclass(frozen=True)
class GlyphImage:
    """An image and, for every cell of `patch` x `patch` pixels, what is in it."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    mask: NDArray[np.bool_]
    """(H, W) pixels of any glyph."""
    labels: NDArray[np.int64]
    """(MAX_GLYPHS,) class of every glyph; 0 past the last one, and for one that others hide by more than half."""
    corners: NDArray[np.float32]
    """(MAX_GLYPHS, 4) the glyphs' boxes, xyxy in pixels."""
    owners: NDArray[np.int64]
    """(H / patch, W / patch) k where glyph labels[k - 1] has most of the cell, 0 where none has an eighth of it."""
    boxes: NDArray[np.float32]
    """(H / patch, W / patch, 4) distances in pixels from the cell's centre to the left, top, right, bottom of that glyph's box."""


@cache
def _font(style: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{style}.ttf", _MASTER)


@lru_cache(maxsize=4096)
def _master(style: str, glyph: str, stroke: int) -> Image.Image:
    """The glyph as coverage, cropped to its box; `stroke` pixels fatter all round."""
    font = _font(style)
    left, top, right, bottom = map(int, font.getbbox(glyph, stroke_width=stroke))
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), glyph, fill=255, font=font, stroke_width=stroke)
    return image.crop(image.getbbox())


def _plasma(rng: np.random.Generator, side: int, cells: int) -> NDArray[np.float32]:
    """(side, side, 3) smooth random colours, about `cells` blobs across, -1..1."""
    coarse = rng.uniform(-1, 1, size=(3, cells, cells)).astype(np.float32)
    planes = [np.asarray(Image.fromarray(c).resize((side, side), Image.Resampling.BICUBIC)) for c in coarse]
    return np.stack(planes, axis=-1)


def _ground(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """(side, side, 3) 0..255: colours of three scales, pixel noise, thin lines."""
    canvas = rng.uniform(30, 225, size=3).astype(np.float32) * np.ones((side, side, 1), dtype=np.float32)
    for cells in (2, 5, 12, 32):
        canvas += _plasma(rng, side, cells) * rng.uniform(0, 60) * rng.integers(0, 2)
    if rng.random() < 0.5:  # grey, as much of a photograph is
        canvas += (canvas.mean(axis=-1, keepdims=True) - canvas) * np.float32(rng.uniform(0, 1))
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 7)):
        draw.line(
            [tuple(p) for p in rng.uniform(0, side, size=(3, 2))],
            fill=tuple(rng.integers(0, 256, 3)),
            width=int(rng.integers(1, 4)),
        )
    return np.asarray(image, dtype=np.float32) + rng.normal(0, rng.uniform(0, 8), size=(side, side, 1)).astype(
        np.float32
    )


def _paint(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """(side, side, 3) 0..255: one colour, or a wave between two."""
    first, second = rng.uniform(0, 255, size=(2, 3)).astype(np.float32)
    if rng.random() < 0.4:
        return first * np.ones((side, side, 1), dtype=np.float32)
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32)
    turn, length = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(6), np.log(200)))
    wave = np.sin((rows * np.sin(turn) + columns * np.cos(turn)) * 2 * np.pi / length + rng.uniform(0, 6))
    if rng.random() < 0.4:
        wave = np.sign(wave)
    return first + (second - first) * (0.5 + 0.5 * wave[..., None]).astype(np.float32)


def _glyph(rng: np.random.Generator, side: int) -> tuple[int, NDArray[np.float32], tuple[float, float, float, float]]:
    """Class, coverage 0..1 (side, side) and box of one turned, stretched glyph somewhere in the image."""
    number = int(rng.integers(len(GLYPHS)))
    shape = _master(STYLES[rng.integers(len(STYLES))], GLYPHS[number], int(rng.choice([0, 2, 5])))
    aspect = np.exp(rng.uniform(-0.35, 0.35))
    width, height = shape.width * aspect, shape.height / aspect
    scale = np.exp(rng.uniform(np.log(SIZES[0]), np.log(SIZES[1]))) / max(width, height)
    small = shape.resize((max(round(width * scale), 2), max(round(height * scale), 2)), Image.Resampling.BILINEAR)
    small = small.rotate(rng.uniform(-30, 30), Image.Resampling.BICUBIC, expand=True)
    small = small.crop(small.getbbox())
    x, y = (
        int(rng.integers(-length // 4, side - length + length // 4 + 1)) if length < side else 0
        for length in small.size
    )
    layer = Image.new("L", (side, side))
    layer.paste(small, (x, y))
    coverage = np.asarray(layer, dtype=np.float32) / np.float32(255)
    return number + 1, coverage, (x, y, x + small.width, y + small.height)


def glyph_image(rng: np.random.Generator, side: int = 128, patch: int = 8) -> GlyphImage:
    """One to MAX_GLYPHS glyphs, the later in front of the earlier."""
    canvas = _ground(rng, side)
    owner = np.zeros((side, side), dtype=np.int64)  # 0 ground, k the k-th glyph
    labels, boxes, areas = [0], [(0.0, 0.0, 0.0, 0.0)], [0]
    for _ in range(rng.integers(1, MAX_GLYPHS + 1)):
        label, coverage, box = _glyph(rng, side)
        solid = coverage > 0.5
        if not solid.any():
            continue
        paint = _paint(rng, side)
        for _ in range(4):  # colours that can be seen
            if np.linalg.norm(paint[solid] - canvas[solid], axis=-1).mean() > 50:
                break
            paint = _paint(rng, side)
        canvas += (paint - canvas) * coverage[..., None] * np.float32(rng.uniform(0.8, 1.0))
        labels.append(label)
        boxes.append(box)
        areas.append(int(solid.sum()))
        owner[solid] = len(labels) - 1
    hidden = np.bincount(owner.ravel(), minlength=len(labels)) < 0.5 * np.array(areas)
    return _cells(canvas, owner, np.where(hidden, 0, labels), np.array(boxes, dtype=np.float32), patch)


def _cells(canvas: NDArray, owner: NDArray, labels: NDArray, boxes: NDArray, patch: int) -> GlyphImage:
    """Targets of every cell from the pixels' owners."""
    grid = owner.shape[0] // patch
    pixels = owner.reshape(grid, patch, grid, patch).swapaxes(1, 2).reshape(grid, grid, patch * patch)
    share = np.stack([(pixels == k).mean(axis=-1) for k in range(len(labels))])
    share[0] = 1 / 8  # the least share a glyph needs; a tie goes to the ground
    most = share.argmax(axis=0)
    centre = (np.arange(grid, dtype=np.float32) + 0.5) * patch
    x, y = np.meshgrid(centre, centre)
    left, top, right, bottom = np.moveaxis(boxes[most], -1, 0)
    distances = np.stack([x - left, y - top, right - x, bottom - y], axis=-1)
    listed, corners = np.zeros(MAX_GLYPHS, dtype=np.int64), np.zeros((MAX_GLYPHS, 4), dtype=np.float32)
    listed[: len(labels) - 1], corners[: len(labels) - 1] = labels[1:], boxes[1:]
    image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return GlyphImage(image=image, mask=owner > 0, labels=listed, corners=corners, owners=most, boxes=distances)
