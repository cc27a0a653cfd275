"""Anchors and RoI pooling with known strides.

torchvision infers strides from the sizes of image and map, which goes wrong here: a side of 672 has 21 cells at stride 32 and 11 at
stride 64, and 672 // 11 is 61; and its RoI pooling compares a map with the image's content, without the padding the map covers.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

from piip.models.heads.dialects import DIALECTS, Dialect

RATIOS = (0.5, 1.0, 2.0)
"""Height / width of the anchors."""
BOX_POOL, MASK_POOL = 7, 14
"""Sides of the squares the box and the mask head see."""


class Anchors(nn.Module):
    """Anchors of three ratios at every cell.

    Args:
        scales: Anchor sides in strides: one, or several at a level (Detectron2's RetinaNet).
        strides: Of the maps that are looked at.
        form: `exact`: centred on the cells' upper left corners (mmdet's centre offset 0, Detectron2). `rounded`: those in whole pixels
            (torchvision). `pixels`: a cell's area in each ratio, rounded, times `scale`, in the middle of the cell (Detectron).
    """

    def __init__(
        self, scales: Sequence[float], strides: Sequence[int], form: Literal["exact", "rounded", "pixels"] = "exact"
    ) -> None:
        super().__init__()
        self.scales, self.strides, self.form = tuple(scales), tuple(strides), form

    def num_anchors_per_location(self) -> list[int]:
        """Three a scale at every level."""
        return [len(RATIOS) * len(self.scales)] * len(self.strides)

    def forward(self, images: ImageList, features: Sequence[Tensor]) -> list[Tensor]:
        """`of_maps` for every image."""
        anchors = torch.cat(self.of_maps(features))
        return [anchors for _ in images.image_sizes]

    def of_maps(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The anchors (A, 4) of every level, xyxy in pixels of the padded input: row by row, scale by scale, ratio by ratio.

        Of the form `pixels` ratio by ratio, scale by scale.
        """
        assert len(features) == len(self.strides), f"{len(features)} maps for strides {self.strides}"
        return [self._level(feature, stride) for feature, stride in zip(features, self.strides, strict=True)]

    def _level(self, feature: Tensor, stride: int) -> Tensor:
        y = torch.arange(feature.shape[-2], device=feature.device) * stride
        x = torch.arange(feature.shape[-1], device=feature.device) * stride
        y_HW, x_HW = torch.meshgrid(y, x, indexing="ij")
        corner_HW14 = torch.stack([x_HW, y_HW, x_HW, y_HW], dim=-1)[:, :, None]
        return (corner_HW14 + self.cell(stride, feature.device)).reshape(-1, 4)

    def cell(self, stride: int, device: torch.device | None = None) -> Tensor:
        """The anchors (A, 4) of the upper left cell."""
        if self.form == "pixels":
            return torch.tensor(_cell_in_pixels(self.scales, stride), device=device)
        ratio_A = torch.tensor(RATIOS, device=device)
        cells = []
        for scale in self.scales:
            half_h, half_w = 0.5 * scale * stride * ratio_A.sqrt(), 0.5 * scale * stride / ratio_A.sqrt()
            cells.append(torch.stack([-half_w, -half_h, half_w, half_h], dim=1))
        cell_A4 = torch.cat(cells)
        return cell_A4.round() if self.form == "rounded" else cell_A4


def _cell_in_pixels(scales: Sequence[float], stride: int) -> list[tuple[float, ...]]:
    cell = []
    for ratio in RATIOS:
        for scale in scales:
            width = round(math.sqrt(stride**2 / ratio))
            half_w, half_h = scale * width / 2, scale * round(width * ratio) / 2
            cell.append((stride / 2 - half_w, stride / 2 - half_h, stride / 2 + half_w, stride / 2 + half_h))
    return cell


class RoIPool(nn.Module):
    """RoIAlign on the pyramid level that fits a box's size.

    Args:
        output_size: Side of the pooled square.
        strides: Of the maps, finest first.
        dialect: How boxes, samples and levels are taken.
    """

    def __init__(
        self, output_size: int, strides: Sequence[int] = (4, 8, 16, 32), dialect: Dialect = DIALECTS["mmdet"]
    ) -> None:
        super().__init__()
        self.output_size, self.strides, self.dialect = output_size, tuple(strides), dialect

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, H_l, W_l) and per image boxes (K_b, 4) xyxy in pixels -> (sum of K_b, C, output_size, output_size)."""
        image_K = torch.cat([b.new_full((len(b), 1), i) for i, b in enumerate(boxes)])
        rois_K5 = torch.cat([image_K, torch.cat(list(boxes))], dim=1)
        level_K = self.levels(rois_K5[:, 1:])
        if self.dialect.last_pixel:
            rois_K5 = rois_K5 - rois_K5.new_tensor([0, 0, 0, 1, 1])
        chosen = [torch.where(level_K == level)[0] for level in range(len(self.strides))]
        # a level without boxes still takes part, so that every parameter has a gradient (DDP waits for it)
        ratio, aligned = self.dialect.sampling_ratio, self.dialect.aligned
        pooled = [
            roi_align(feature, rois_K5[index], self.output_size, 1 / stride, sampling_ratio=ratio, aligned=aligned)
            for feature, stride, index in zip(features, self.strides, chosen, strict=True)
        ]
        return torch.cat(pooled)[torch.argsort(torch.cat(chosen))]

    def levels(self, boxes: Tensor) -> Tensor:
        """The level (K,) of boxes (K, 4): under 112 px on stride 4, under 224 on 8, ... (FPN's rule; mmdet: finest_scale 56)."""
        side_K = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        inside, outside = self.dialect.level_eps
        return torch.floor(torch.log2(side_K / 56 + inside) + outside).clamp(0, len(self.strides) - 1)
