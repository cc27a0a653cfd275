"""Anchors and RoI pooling with known strides.

torchvision infers strides from the sizes of image and map, which goes wrong here: a side of 672 has 21 cells at stride 32 and 11 at
stride 64, and 672 // 11 is 61; and its RoI pooling compares a map with the image's content, without the padding the map covers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

RATIOS = (0.5, 1.0, 2.0)
"""Height / width of the anchors."""
BOX_POOL, MASK_POOL = 7, 14
"""Sides of the squares the box and the mask head see."""


class Anchors(nn.Module):
    """One anchor size per level, three ratios, centred on the cells' upper left corners (mmdet's centre offset 0, no rounding).

    Args:
        scale: Anchor side in strides.
        strides: Of the maps the RPN sees.
    """

    def __init__(self, scale: float, strides: Sequence[int]) -> None:
        super().__init__()
        self.scale, self.strides = scale, tuple(strides)

    def num_anchors_per_location(self) -> list[int]:
        """Three at every level."""
        return [len(RATIOS)] * len(self.strides)

    def forward(self, images: ImageList, features: Sequence[Tensor]) -> list[Tensor]:
        """The anchors (A, 4), xyxy in pixels of the padded input, for every image: level by level, row by row, ratio by ratio."""
        assert len(features) == len(self.strides), f"{len(features)} maps for strides {self.strides}"
        anchors = torch.cat(
            [self._level(feature, stride) for feature, stride in zip(features, self.strides, strict=True)]
        )
        return [anchors for _ in images.image_sizes]

    def _level(self, feature: Tensor, stride: int) -> Tensor:
        ratio_A = torch.tensor(RATIOS, device=feature.device)
        half_h, half_w = 0.5 * self.scale * stride * ratio_A.sqrt(), 0.5 * self.scale * stride / ratio_A.sqrt()
        cell_A4 = torch.stack([-half_w, -half_h, half_w, half_h], dim=1)
        y = torch.arange(feature.shape[-2], device=feature.device) * stride
        x = torch.arange(feature.shape[-1], device=feature.device) * stride
        y_HW, x_HW = torch.meshgrid(y, x, indexing="ij")
        corner_HW14 = torch.stack([x_HW, y_HW, x_HW, y_HW], dim=-1)[:, :, None]
        return (corner_HW14 + cell_A4).reshape(-1, 4)


class RoIPool(nn.Module):
    """RoIAlign on the pyramid level that fits a box's size.

    Args:
        output_size: Side of the pooled square.
        strides: Of the maps, finest first.
    """

    def __init__(self, output_size: int, strides: Sequence[int] = (4, 8, 16, 32)) -> None:
        super().__init__()
        self.output_size, self.strides = output_size, tuple(strides)

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, H_l, W_l) and per image boxes (K_b, 4) xyxy in pixels -> (sum of K_b, C, output_size, output_size)."""
        image_K = torch.cat([b.new_full((len(b), 1), i) for i, b in enumerate(boxes)])
        rois_K5 = torch.cat([image_K, torch.cat(list(boxes))], dim=1)
        side_K = ((rois_K5[:, 3] - rois_K5[:, 1]) * (rois_K5[:, 4] - rois_K5[:, 2])).sqrt()
        # boxes under 112 px on stride 4, under 224 on 8, ... (FPN's rule; mmdet: finest_scale 56)
        level_K = torch.floor(torch.log2(side_K / 56 + 1e-6)).clamp(0, len(self.strides) - 1)
        chosen = [torch.where(level_K == level)[0] for level in range(len(self.strides))]
        # mmdet: aligned, as many samples per bin as the box has cells (sampling_ratio 0). A level without boxes still
        # takes part, so that every parameter has a gradient (DDP waits for it)
        pooled = [
            roi_align(feature, rois_K5[index], self.output_size, 1 / stride, sampling_ratio=-1, aligned=True)
            for feature, stride, index in zip(features, self.strides, chosen, strict=True)
        ]
        return torch.cat(pooled)[torch.argsort(torch.cat(chosen))]
