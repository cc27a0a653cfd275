"""Where things are: cells of several levels beside padding, places as sines, numbers between 0 and 1 and their logits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from piip.contracts import Size

# B batch, L levels, S cells of all levels one after the other, row by row

EPS = 1e-3
"""Coordinates keep this far from 0 and 1 before they become logits (the official code's value)."""


@dataclass(frozen=True)
class Grid:
    """The cells of all levels, of which some of an image's may be padding."""

    shapes: list[Size]
    """Rows and columns of each level."""
    centres: Tensor
    """(B, S, 2) x, y; 0 and 1 are the edges of an image's content, padding lies beyond 1."""
    ratios: Tensor
    """(B, L, 2) which part of a level's width and height is content."""
    padding: Tensor | None
    """(B, S) True where a cell is padding; None: no image has any."""

    @property
    def level_of(self) -> Tensor:
        """(S,) the level that a cell belongs to."""
        cells = torch.tensor([rows * columns for rows, columns in self.shapes], device=self.ratios.device)
        return torch.arange(len(self.shapes), device=cells.device).repeat_interleave(
            cells, output_size=self.centres.shape[1]
        )


def grid_of(maps: Sequence[Tensor], sizes: Sequence[Size], stride: int) -> Grid:
    """What is content and what padding in maps (B, C, H_l, W_l) of images whose content has these `sizes` in pixels.

    Args:
        maps: Fine to coarse.
        sizes: Height and width of every image's content.
        stride: Of the finest map.
    """
    first = maps[0]
    shapes = [(feature.shape[2], feature.shape[3]) for feature in maps]
    # the padded size: what the finest map says, or more where a side is no multiple of its stride and nothing was padded
    padded = [max(stride * shapes[0][side], *(size[side] for size in sizes)) for side in (0, 1)]
    # a cell is content where the pixel at its upper left corner is, as after resizing a mask of pixels by `nearest`
    content = [
        [[-(-size[side] * shape[side] // padded[side]) for side in (1, 0)] for shape in shapes] for size in sizes
    ]
    content_BL2 = torch.tensor(content, device=first.device, dtype=first.dtype)
    shape_L2 = torch.tensor([shape[::-1] for shape in shapes], device=first.device, dtype=first.dtype)
    cell_LS2 = [_cells(shape, first) for shape in shapes]
    centres = [(cell + 0.5) / content_BL2[:, level, None] for level, cell in enumerate(cell_LS2)]
    padding = [(cell >= content_BL2[:, level, None]).any(-1) for level, cell in enumerate(cell_LS2)]
    whole = all(tuple(cells[::-1]) == shape for image in content for cells, shape in zip(image, shapes, strict=True))
    return Grid(shapes, torch.cat(centres, 1), content_BL2 / shape_L2, None if whole else torch.cat(padding, 1))


def _cells(shape: Size, like: Tensor) -> Tensor:
    """(S_l, 2) column and row of every cell."""
    rows, columns = (torch.arange(side, device=like.device, dtype=like.dtype) for side in shape)
    row_HW, column_HW = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([column_HW, row_HW], -1).flatten(0, 1)


def grid_sines(grid: Grid, channels: int) -> Tensor:
    """(B, S, channels) sines of every cell's lower right corner, y before x, as in DETR at a temperature of 20.

    A corner and not the centre: rows are counted from 1 and divided by their number, as DETR does.
    """
    size_L2 = torch.tensor([shape[::-1] for shape in grid.shapes], device=grid.ratios.device)
    cells_BS2 = (grid.ratios * size_L2)[:, grid.level_of]
    corner_BS2 = (grid.centres * cells_BS2 + 0.5) / (cells_BS2 + 1e-6)
    return torch.cat([sines(corner_BS2[..., side], channels // 2, temperature=20) for side in (1, 0)], -1)


def sines(places: Tensor, channels: int, *, temperature: float) -> Tensor:
    """Places (...) in 0..1 -> (..., channels): sine and cosine in turn, of wavelengths that rise from 1 to `temperature`."""
    exponent = torch.arange(0, channels, 2, device=places.device, dtype=places.dtype) / channels
    angle = places[..., None] * (2 * math.pi) / temperature**exponent
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


def box_sines(boxes: Tensor, channels: int) -> Tensor:
    """Boxes (..., 4) centre x, y, width, height in 0..1 -> (..., 4 * channels), in the order y, x, width, height."""
    return torch.cat([sines(boxes[..., side], channels, temperature=10_000) for side in (1, 0, 2, 3)], -1)


def logit(values: Tensor) -> Tensor:
    """The inverse of the sigmoid, `EPS` away from 0 and 1 at least: of numbers within, and of what noise has put beyond them."""
    values = values.clamp(0, 1)
    return (values.clamp(min=EPS) / (1 - values).clamp(min=EPS)).log()
