"""What a training recipe draws of an image: the `View` that training sees. All draws come from a generator that is given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from piip.contracts import Size
from piip.data.transforms.detection import resized_size
from piip.data.transforms.views import View
from piip.spec import DetectionSpec
from piip.spec.recipes import CropsSpec, JitterSpec, Part, ScalesSpec, SlicesSpec, parts_of

MOSAIC_FACTORS = (0.4, 1.0)
"""Of the mosaic's side, the long side of each image in it."""
CUTS_TRIED = 10
"""A cut that must not be empty is drawn so often before the image stays whole."""


@dataclass(frozen=True)
class _Seen:
    """A view on its way: cuts and sizes one after the other, the part not yet rounded to whole pixels."""

    part: tuple[float, float, float, float]
    """Top, left, height and width in the file's pixels."""
    size: Size

    def resized(self, long: float, short: float) -> "_Seen":
        """As large as both limits allow."""
        return _Seen(self.part, resized_size(*self.size, (long, short)))

    def cut(self, size: Size, rng: np.random.Generator) -> "_Seen":
        """A part of at most this size, anywhere; the two draws always happen."""
        taken = min(size[0], self.size[0]), min(size[1], self.size[1])
        place = [int(rng.integers(0, all_ - some + 1)) for all_, some in zip(self.size, taken, strict=True)]
        top, left, height, width = self.part
        y, x = height / self.size[0], width / self.size[1]
        return _Seen((top + place[0] * y, left + place[1] * x, taken[0] * y, taken[1] * x), taken)

    def view(self, before: Size, *, mirrored: bool) -> View:
        """The part in whole pixels."""
        spans = [_whole(self.part[axis], self.part[axis + 2], before[axis]) for axis in (0, 1)]
        (top, height), (left, width) = spans
        return View(before, (top, left, height, width), self.size, mirrored)


def drawn_view(
    spec: DetectionSpec, before: Size, limits: tuple[int, int], boxes: Tensor, rng: np.random.Generator
) -> View:
    """What training sees of an image.

    Args:
        spec: Its `recipe`, and how likely is a flip.
        before: Height and width of the image.
        limits: Of the long and the short side, for what the recipe leaves as it is.
        boxes: (n, 4) xyxy of its objects, in its pixels.
        rng: Where all draws come from.
    """
    # both draws always happen, so that one setting does not shift the other's numbers
    scale, mirrored = float(rng.choice(spec.train_scales)), bool(rng.random() < spec.flip)
    seen, recipe = _all_of(before), spec.recipe
    match recipe:
        case None:
            return View.of_all(before, resized_size(*before, limits, scale=scale), mirrored=mirrored)
        case ScalesSpec():
            seen = seen.resized(recipe.long, _one_of(recipe.short, rng, between=recipe.between))
        case CropsSpec():
            seen = _cropped(recipe, seen, boxes, rng)
        case JitterSpec():
            side = recipe.side * rng.uniform(*recipe.factors)
            seen = seen.resized(side, side).cut((recipe.side, recipe.side), rng)
        case SlicesSpec():
            part = _with_objects(parts_of(*before, recipe.side, recipe.overlap), boxes, recipe.kept_share, rng)
            size = resized_size(part[2], part[3], limits, scale=scale)
            return View(before, part, size, mirrored)
    return seen.view(before, mirrored=mirrored)


def cell_view(before: Size, side: int, cell: Size, rng: np.random.Generator, *, flip: float) -> View:
    """What a cell of a mosaic shows of an image: all of it at a part of the size it has alone, or as much as there is room for.

    Args:
        before: Height and width of the image.
        side: Of the mosaic.
        cell: Its height and width.
        rng: Four draws.
        flip: Probability of the mirror image.
    """
    long = side * rng.uniform(*MOSAIC_FACTORS)
    mirrored = bool(rng.random() < flip)
    return _all_of(before).resized(long, long).cut(cell, rng).view(before, mirrored=mirrored)


def _all_of(before: Size) -> _Seen:
    return _Seen((0.0, 0.0, float(before[0]), float(before[1])), before)


def _cropped(recipe: CropsSpec, seen: _Seen, boxes: Tensor, rng: np.random.Generator) -> _Seen:
    """DETR's two ways to a size."""
    if rng.random() < 0.5:
        first = seen.resized(recipe.first_long or recipe.long, _one_of(recipe.first_short, rng))
        seen = _kept(first, boxes, lambda: first.cut(_sides(recipe.crop, first.size, rng), rng), recipe)
    seen = seen.resized(recipe.long, _one_of(recipe.short, rng))
    if recipe.last_crop is not None:
        whole, side = seen, (recipe.last_crop, recipe.last_crop)
        seen = _kept(whole, boxes, lambda: whole.cut(side, rng), recipe)
    return seen


def _kept(whole: _Seen, boxes: Tensor, cut: Callable[[], _Seen], recipe: CropsSpec) -> _Seen:
    """A cut; where it must have objects and the image has some, one with some, or the image as it is."""
    plain = boxes.as_subclass(Tensor).numpy()
    if recipe.empty_crops or not _has_any(whole, plain):
        return cut()
    return next((found for _ in range(CUTS_TRIED) if _has_any(found := cut(), plain)), whole)


def _has_any(seen: _Seen, boxes: np.ndarray) -> bool:
    """Whether a box reaches into the part."""
    top, left, height, width = seen.part
    inside = (boxes[:, 0] < left + width) & (boxes[:, 2] > left) & (boxes[:, 1] < top + height) & (boxes[:, 3] > top)
    return bool(inside.any())


def _sides(least_most: tuple[int, int], size: Size, rng: np.random.Generator) -> Size:
    """Height and width of a cut, each drawn; where the image is smaller than the least, its own."""
    least, most = least_most
    height, width = (int(rng.integers(min(length, least), min(length, most) + 1)) for length in size)
    return height, width


def _with_objects(parts: Sequence[Part], boxes: Tensor, share: float, rng: np.random.Generator) -> Part:
    """One of the parts in which an object is kept; of all, where there is none."""
    draw = rng.random()
    full = [p for p in parts if _keeps_any(p, boxes, share)] or list(parts)
    return full[int(draw * len(full))]


def _keeps_any(part: Part, boxes: Tensor, share: float) -> bool:
    top, left, height, width = part
    seen = View((top + height, left + width), part, (height, width)).seen_share(boxes)
    return bool(((seen >= share) & (seen > 0)).any())


def _one_of(lengths: Sequence[int], rng: np.random.Generator, *, between: bool = False) -> int:
    return int(rng.integers(lengths[0], lengths[-1] + 1)) if between else int(rng.choice(lengths))


def _whole(start: float, length: float, most: int) -> tuple[int, int]:
    """First pixel and number of pixels, at least one, of a span of an axis of `most` pixels."""
    first = min(round(start), most - 1)
    return first, max(min(round(start + length), most) - first, 1)
