"""The one way from a file's pixels to the network's, and back: a part of the image, resized, perhaps mirrored.

Images, boxes, points and masks go through the same `View`. Pixels are resampled once, whatever the recipe did to get there.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from piip.contracts import Size
from piip.data.runs import Cut
from piip.data.transforms import cuts as masks
from piip.data.transforms import detection as transforms
from piip.ops.mask_runs import flipped
from piip.spec.recipes import Part

# n objects of an image, K points of one, R runs


@dataclass(frozen=True)
class View:
    """What is seen of an image."""

    before: Size
    """Height and width of the file's image."""
    part: Part
    """Of it."""
    size: Size
    """Height and width that the part is resized to."""
    mirrored: bool = False
    """Left becomes right, at last."""

    @classmethod
    def of_all(cls, before: Size, size: Size, *, mirrored: bool = False) -> "View":
        """The whole image."""
        return cls(before, (0, 0, *before), size, mirrored)

    @property
    def whole(self) -> bool:
        """Whether nothing is cut away."""
        return self.part == (0, 0, *self.before)

    @property
    def scale(self) -> tuple[float, float]:
        """(y, x) pixels of the network a pixel of the file."""
        return self.size[0] / self.part[2], self.size[1] / self.part[3]

    def image(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> (3, *size)."""
        top, left, height, width = self.part
        seen = transforms.resize_image(image[:, top : top + height, left : left + width], self.size)
        return F.horizontal_flip(seen) if self.mirrored else seen

    def boxes(self, boxes: Tensor) -> Tensor:
        """(n, 4) of `boxes_of` -> the same of the view, as far as they are in the part; those outside are empty."""
        if not self.whole:
            boxes = F.crop(boxes, *self.part)
        boxes = transforms.resize_boxes(boxes, self.size)
        return F.horizontal_flip(boxes) if self.mirrored else boxes

    def points(self, points: Tensor) -> Tensor:
        """(n, K, 2) x and y -> the same of the view; what is outside the part comes out outside the view."""
        top, left, *_ = self.part
        scale_y, scale_x = self.scale
        seen = (points - points.new_tensor([left, top])) * points.new_tensor([scale_x, scale_y])
        return torch.stack([self.size[1] - seen[..., 0], seen[..., 1]], dim=-1) if self.mirrored else seen

    def mask_runs(self, cuts: Iterable[Cut]) -> Tensor:
        """Masks of the file's image, in order -> (R, 4) runs of the view."""
        inside = cuts if self.whole else (_inside(cut, self.part) for cut in cuts)
        runs = masks.resized(inside, self.part[2:], self.size)
        return flipped(runs, self.size[1]) if self.mirrored else runs

    def back(self, boxes: Tensor) -> Tensor:
        """Plain (n, 4) xyxy boxes of the view -> of the file's image."""
        top, left, *_ = self.part
        scale_y, scale_x = self.scale
        if self.mirrored:
            x0, y0, x1, y1 = boxes.unbind(dim=1)
            boxes = torch.stack([self.size[1] - x1, y0, self.size[1] - x0, y1], dim=1)
        return boxes / boxes.new_tensor([scale_x, scale_y] * 2) + boxes.new_tensor([left, top] * 2)

    def points_back(self, points: Tensor) -> Tensor:
        """Plain (n, K, 2) x and y of the view -> of the file's image."""
        corners = points.reshape(-1, 2).repeat(1, 2)
        return self.back(corners)[:, :2].reshape(points.shape)

    def seen_share(self, boxes: Tensor) -> Tensor:
        """(n,) the share of each box (n, 4), in the file's pixels, that is in the part."""
        top, left, height, width = self.part
        plain = boxes.as_subclass(Tensor)
        least, most = plain.new_tensor([left, top]), plain.new_tensor([left + width, top + height])
        sides = (torch.minimum(plain[:, 2:], most) - torch.maximum(plain[:, :2], least)).clamp(min=0)
        return sides.prod(dim=1) / (plain[:, 2:] - plain[:, :2]).prod(dim=1).clamp(min=1e-9)


def _inside(cut: Cut, part: Part) -> Cut:
    """As much of a mask as is in a part of its image, in the part's pixels."""
    top, left, height, width = part
    first_row, first_column = max(top - cut.top, 0), max(left - cut.left, 0)
    rows = slice(first_row, max(top + height - cut.top, first_row))
    columns = slice(first_column, max(left + width - cut.left, first_column))
    seen = cut.mask[rows, columns]
    if not seen.any():
        return Cut(np.zeros((0, 0), dtype=np.uint8), 0, 0)
    return Cut(seen, cut.top + first_row - top, cut.left + first_column - left)
