"""What training sees of one image or of several: an image with its objects, which can be put together with others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes

from piip.contracts import Size
from piip.data.runs import Cut
from piip.data.transforms.detection import boxes_of, usable
from piip.data.transforms.views import View
from piip.ops.mask_runs import arrays_of, have_pixels, kept, moved, runs_of

# n objects, R runs

MOSAIC_MIDDLE = (0.25, 0.75)
"""Between these shares of either side lies the point where a mosaic's four images meet."""


@dataclass(frozen=True)
class Picture:
    """An image and its objects, in its pixels."""

    image: Tensor
    """(3, h, w) uint8."""
    boxes: Tensor
    """(n, 4) xyxy, inside."""
    labels: Tensor
    """(n,) from 1."""
    runs: Tensor | None
    """(R, 4) of the masks (piip/ops/mask_runs.py); None: none are learned."""
    points: Tensor | None = None
    """(n, K, 3) keypoints x, y, visibility; None: none are learned."""

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.image.shape[1], self.image.shape[2]

    @classmethod
    def of(
        cls,
        view: View,
        image: Tensor,
        boxes: Tensor,
        labels: Tensor,
        cuts: Iterable[Cut] | None,
        share: float = 0.0,
        points: Tensor | None = None,
    ) -> "Picture":
        """What a view shows of an image.

        The one rule of what is lost: an object stays if its box, as far as it is seen, is a pixel wide and high (`usable`) and, where
        the view cuts it, has at least `share` of its area and a pixel of its mask left.

        Args:
            view: Of the image.
            image: (3, H, W) uint8, the file's.
            boxes: (n, 4) of `boxes_of`, in its pixels.
            labels: (n,).
            cuts: Masks in the order of boxes; None: none are learned.
            share: Of an object that is cut.
            points: (n, K, 3) keypoints in its pixels, in the order they have once the view mirrored them; None: none are learned.
        """
        seen, keep = shown(view, boxes, share)
        runs = view.mask_runs(cuts) if cuts is not None else None
        if not view.whole and runs is not None:
            keep = keep & (have_pixels(runs, len(boxes)) | (view.seen_share(boxes) >= 1))
        points = None if points is None else _seen(view, points)[keep]
        return cls(view.image(image), seen[keep], labels[keep], None if runs is None else kept(runs, keep), points)

    def at(self, top: int, left: int) -> "Picture":
        """Its objects as they are in a larger image that it lies in; the image itself stays."""
        runs = None if self.runs is None else moved(self.runs, top, left)
        points = None if self.points is None else self.points + self.points.new_tensor([left, top, 0])
        return replace(self, boxes=self.boxes + self.boxes.new_tensor([left, top] * 2), runs=runs, points=points)


def shown(view: View, boxes: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Boxes (n, 4) as a view has them, and which of them (n,) stay: a pixel wide and high, and of those that it cuts, at least `share`."""
    seen, keep = usable(view.boxes(boxes))
    return seen, keep if view.whole else keep & (view.seen_share(boxes) >= share)


def _seen(view: View, points: Tensor) -> Tensor:
    """Keypoints (n, K, 3) in a view; those outside are not visible, and all that are not are 0, 0, 0."""
    places = view.points(points[..., :2])
    inside = ((places >= 0) & (places <= places.new_tensor([view.size[1], view.size[0]]))).all(dim=-1)
    seen = torch.cat([places, points[..., 2:]], dim=-1)
    return torch.where((inside & (points[..., 2] > 0))[..., None], seen, torch.zeros_like(seen))


def meeting_point(side: int, rng: np.random.Generator) -> Size:
    """Row and column of a mosaic of `side` where its images meet."""
    least, most = (int(side * share) for share in MOSAIC_MIDDLE)
    return int(rng.integers(least, most + 1)), int(rng.integers(least, most + 1))


def cells_of(side: int, point: Size) -> list[Size]:
    """Height and width of a mosaic's cells: above left and right, below left and right."""
    return [(height, width) for height in (point[0], side - point[0]) for width in (point[1], side - point[1])]


def mosaic(pictures: Sequence[Picture], side: int, point: Size, fill: Sequence[float]) -> Picture:
    """Four pictures in one square, each with a corner at `point`.

    Args:
        pictures: Of at most the sizes of `cells_of`, in that order.
        side: Of the square.
        point: Row and column.
        fill: RGB in 0..255, where no picture is.
    """
    colour = torch.tensor([round(c) for c in fill], dtype=torch.uint8)
    canvas = colour[:, None, None].expand(3, side, side).clone()
    placed = list[Picture]()
    for number, picture in enumerate(pictures):
        height, width = picture.size
        top = point[0] - height if number < 2 else point[0]
        left = point[1] - width if number % 2 == 0 else point[1]
        canvas[:, top : top + height, left : left + width] = picture.image
        placed.append(picture.at(top, left))
    return _joined(canvas, placed)


def pasted(onto: Picture, other: Picture, chosen: Tensor) -> Picture:
    """Copy-paste: some objects of another picture, by their masks, upon this one, where they are in it.

    What they hide is taken off the masks beneath, whose boxes shrink with them; an object of which nothing, or less than a box of a
    pixel, is left is lost.

    Args:
        onto: Has masks.
        other: Has masks; its upper left corner lies on that of `onto`.
        chosen: (n,) bool, of its objects.
    """
    assert onto.runs is not None
    assert other.runs is not None
    height, width = (min(a, b) for a, b in zip(onto.size, other.size, strict=True))
    hidden = torch.zeros(onto.size, dtype=torch.bool)
    added, labels = [], []
    for numbers, arrays in arrays_of(other.runs, chosen.nonzero()[:, 0], other.size):
        masks = torch.zeros(len(numbers), *onto.size, dtype=torch.bool)
        masks[:, :height, :width] = arrays[:, :height, :width] > 0
        hidden |= masks.any(dim=0)
        added.append(_of_masks(masks))
        labels.append(other.labels[numbers])
    image = onto.image.clone()
    image[:, :height, :width] = torch.where(
        hidden[:height, :width], other.image[:, :height, :width], image[:, :height, :width]
    )
    beneath = [
        _of_masks((arrays > 0) & ~hidden)
        for _, arrays in arrays_of(onto.runs, torch.arange(len(onto.labels)), onto.size)
    ]
    parts = [*beneath, *added]
    labels = torch.cat([onto.labels, *labels])
    runs = _numbered([runs for _, runs in parts], [len(boxes) for boxes, _ in parts])
    boxes = torch.cat([onto.boxes[:0], *(boxes for boxes, _ in parts)])
    boxes, keep = usable(boxes_of(boxes, onto.size))
    keep = keep & have_pixels(runs, len(boxes))
    return Picture(image, boxes[keep], labels[keep], kept(runs, keep))


def _of_masks(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (n, 4) around masks (n, H, W) of bool, of empty ones nothing; and their runs."""
    boxes = torch.zeros(len(masks), 4)
    some = masks.flatten(1).any(dim=1)
    if some.any():
        boxes[some] = masks_to_boxes(masks[some]) + torch.tensor([0.0, 0.0, 1.0, 1.0])
    return boxes, runs_of(masks)


def _joined(image: Tensor, pictures: Sequence[Picture]) -> Picture:
    found = [picture.runs for picture in pictures]
    counts = [len(picture.labels) for picture in pictures]
    runs = None if found[0] is None else _numbered([r for r in found if r is not None], counts)
    points = [picture.points for picture in pictures if picture.points is not None]
    boxes, labels = (torch.cat(those) for those in zip(*((p.boxes, p.labels) for p in pictures), strict=True))
    return Picture(image, boxes, labels, runs, torch.cat(points) if points else None)


def _numbered(runs: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """Runs of several lists of objects, numbered as in all of them one after the other."""
    firsts = np.cumsum([0, *counts])[:-1].tolist()
    shifted = [
        some + torch.tensor([first, 0, 0, 0], dtype=some.dtype) for some, first in zip(runs, firsts, strict=True)
    ]
    return torch.cat([torch.zeros(0, 4, dtype=torch.int32), *shifted])
