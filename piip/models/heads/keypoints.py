"""Keypoints inside boxes: Keypoint R-CNN's branch (arXiv 1703.06870, section 5; Detectron's `roi_pose_head_v1convX`)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.roi_heads import keypointrcnn_inference, keypointrcnn_loss

from piip.contracts import Size
from piip.models.heads.boxes import MASK_POOL, RoIPool
from piip.models.heads.roi_heads import Prediction, RoIHeads, Samples, Target, build_box_head
from piip.models.precision import at_least_fp32
from piip.spec import KeypointRCNNSpec

# K boxes, P keypoints


class KeypointPredictor(KeypointRCNNPredictor):
    """Squares to a map a keypoint of four times their side: a learned transposed convolution, then twice the side.

    Args:
        channels: Of the squares.
        num_keypoints: Maps.
        zero_border: As Detectron doubles the side, see `doubled`; else bilinearly, as torchvision does.
    """

    def __init__(self, channels: int, num_keypoints: int, *, zero_border: bool) -> None:
        super().__init__(channels, num_keypoints)
        self.zero_border = zero_border

    def forward(self, x: Tensor) -> Tensor:
        """Squares (K, channels, S, S) -> (K, P, 4 * S, 4 * S)."""
        return doubled(self.kps_score_lowres(x)) if self.zero_border else super().forward(x)


def doubled(maps: Tensor) -> Tensor:
    """(K, P, S, S) -> (K, P, 2 * S, 2 * S) by Detectron's fixed kernel: bilinear, but for the border, around which it has zeros."""
    ramp = maps.new_tensor([0.25, 0.75, 0.75, 0.25])
    kernel = (ramp[:, None] * ramp).expand(maps.shape[1], 1, 4, 4)
    return F.conv_transpose2d(maps, kernel, stride=2, padding=1, groups=maps.shape[1])


class KeypointRoIHeads(RoIHeads):
    """Classes and boxes of proposals, and the keypoints inside the boxes.

    A keypoint is one of 56 x 56 cells of its box; cross entropy over all cells, the mean over the visible keypoints of the positive
    proposals that have them inside. Found again as Detectron does: the map resized (bicubic) to the box's pixels, its highest one.

    Args:
        spec: Sizes and thresholds.
        channels: Of the maps that boxes are cut from; None: of the spec's pyramid.
    """

    keypoint_roi_pool: nn.Module
    keypoint_head: nn.Module
    keypoint_predictor: nn.Module

    def __init__(self, spec: KeypointRCNNSpec, channels: int | None = None) -> None:
        channels = channels or spec.fpn_channels
        box_head = build_box_head(spec, channels)
        super().__init__(spec, box_head, channels=channels)
        self.num_keypoints = spec.num_keypoints
        self.keypoint_roi_pool = RoIPool(MASK_POOL, spec.form.box_strides, self.dialect)
        self.keypoint_head = KeypointRCNNHeads(channels, [spec.keypoint_channels] * spec.keypoint_convs)
        self.keypoint_predictor = KeypointPredictor(
            spec.keypoint_channels, spec.num_keypoints, zero_border=self.dialect.zero_border
        )

    def forward(  # type: ignore[override]
        self,
        features: Sequence[Tensor],
        proposals: list[Tensor],
        image_shapes: list[Size],
        targets: list[Target] | None = None,
    ) -> tuple[list[Prediction], dict[str, Tensor]]:
        """Predictions in evaluation, with keypoints (k, P, 3) x, y, 1 in input pixels; losses in training; the other one is empty."""
        predictions, losses = super().forward(features, proposals, image_shapes, targets)
        if predictions:
            boxes = [prediction["boxes"] for prediction in predictions]
            found, _ = keypointrcnn_inference(self.keypoint_logits(features, boxes), boxes)
            predictions = [p | {"keypoints": points} for p, points in zip(predictions, found, strict=True)]
        return predictions, losses

    def inside_losses(
        self, features: Sequence[Tensor], samples: Samples, sizes: Sequence[Size], targets: list[Target]
    ) -> dict[str, Tensor]:
        """`loss_keypoint` of the positive samples; 0 where none of their keypoints is visible and inside.

        Args:
            features: Four maps.
            samples: Of all images.
            sizes: Not asked for: keypoints outside an image are outside its boxes.
            targets: Per image keypoints (n, P, 3) x, y in input pixels, and whether they are visible (above 0).
        """
        del sizes
        boxes, objects = samples.positive()
        points = [
            target["keypoints"] if len(target["keypoints"]) else b.new_zeros(1, self.num_keypoints, 3)
            for target, b in zip(targets, boxes, strict=True)
        ]
        logits = self.keypoint_logits(features, boxes)
        if not len(logits):
            return {"loss_keypoint": logits.sum() * 0}  # the branch stays part of the graph
        return {"loss_keypoint": keypointrcnn_loss(logits, boxes, points, objects)}

    def keypoint_logits(self, features: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        """(K, P, 56, 56) inside the boxes of all images."""
        return self.placed(self.keypoint_roi_pool(features, boxes))

    def placed(self, pooled: Tensor) -> Tensor:
        """Squares (K, C, 14, 14) -> keypoint logits (K, P, 56, 56)."""
        if not self.contiguous:
            pooled = pooled.contiguous(memory_format=torch.channels_last)
        # the loss reads the maps as rows of cells
        return at_least_fp32(self.keypoint_predictor(self.keypoint_head(pooled))).contiguous()

    def probed(self, like: Tensor, boxes: int, masks: int) -> list[Tensor]:
        """As `RoIHeads.probed`; keypoints of as many boxes as would have masks."""
        pooled = like.new_empty(masks, self.channels, MASK_POOL, MASK_POOL).requires_grad_(self.training)
        return [*super().probed(like, boxes, masks), self.keypoint_predictor(self.keypoint_head(pooled))]
