"""RoI heads without a pyramid (arXiv 1506.01497; Mask R-CNN's "C4"): the last level of a ResNet looks at squares of one map."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from piip.models.backbones.resnet import level_of, load_pretraining
from piip.models.heads.boxes import MASK_POOL, RoIPool
from piip.models.heads.roi_heads import RoIHeads
from piip.spec import TwoStageSpec


class C4RoIHeads(RoIHeads):
    """Boxes and masks of squares that went through res5: Detectron's `ResNet_roi_conv5_head` and `mask_rcnn_fcn_head_v0upshare`.

    Masks are drawn by the same res5 as boxes are looked at by, 14 cells a side. In training it sees the positive squares a second time
    for them: the same numbers as Detectron's, which keeps them.

    Args:
        spec: Sizes and thresholds.
        channels: Of the map at stride 16.
        pretrained: False starts from random weights, whatever the spec says.
    """

    def __init__(self, spec: TwoStageSpec, channels: int, *, pretrained: bool = True) -> None:
        form = spec.form
        res5 = level_of(form.res5, 3, blocks=form.res5_blocks, channels=channels)
        if pretrained:
            load_pretraining(res5, form.res5, prefix="levels.res5.")
        given = 32 * form.res5.channels
        head = nn.Sequential(res5, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(spec, head, channels=given, width=given)
        self.map_channels = channels
        # as many samples a cell as it has pixels of the map, as Detectron's configurations of this form have it
        pool = RoIPool(MASK_POOL, form.box_strides, replace(self.dialect, sampling_ratio=-1))
        self.box_roi_pool, self.mask_roi_pool = pool, pool if self.has_mask() else None

    def mask_logits(self, features: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        """(K, classes + 1, 14, 14) inside the boxes of all images."""
        assert self.mask_roi_pool is not None
        return self.drawn(self.box_head[0](self.mask_roi_pool(features, boxes)))

    def probed(self, like: Tensor, boxes: int, masks: int) -> list[Tensor]:
        """As `RoIHeads.probed`."""
        squares = [
            like.new_empty(count, self.map_channels, MASK_POOL, MASK_POOL).requires_grad_(self.training)
            for count in (boxes, masks)
        ]
        found = [*self.box_predictor(self.box_head(squares[0]))]
        return [*found, self.drawn(self.box_head[0](squares[1]))] if self.has_mask() else found
