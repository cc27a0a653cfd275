"""Region proposals on the levels of a pyramid or on one map: torchvision's, by the rules of a dialect."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from piip.contracts import Size
from piip.models.heads.boxes import RATIOS, Anchors
from piip.models.heads.dialects import dialect_of
from piip.models.precision import at_least_fp32
from piip.spec import TwoStageSpec

SAMPLED = 256
"""Anchors an image that are learned from, half of them positive."""


class FloatRPNHead(RPNHead):
    """torchvision's, with outputs in fp32 under autocast, too."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps (B, C, H_l, W_l) -> objectness (B, A, H_l, W_l) and deltas (B, 4 * A, H_l, W_l) of A anchors."""
        objectness, deltas = super().forward(x)
        return [at_least_fp32(o) for o in objectness], [at_least_fp32(d) for d in deltas]


class RPN(RegionProposalNetwork):
    """torchvision's region proposals with a dialect's anchors, losses and choice.

    Args:
        spec: Sizes and numbers.
        channels: Of the maps; None: of the spec's pyramid.
    """

    def __init__(self, spec: TwoStageSpec, channels: int | None = None) -> None:
        dialect, form = dialect_of(spec), spec.form
        scales = form.scales(spec.anchor_scale)
        post_nms = form.train_post_nms or dialect.training_proposals * spec.rpn_post_nms
        super().__init__(
            Anchors(scales, form.proposal_strides, dialect.anchors),  # type: ignore[arg-type]
            FloatRPNHead(channels or spec.fpn_channels, num_anchors=len(RATIOS) * len(scales)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,  # and every object's best anchor is positive (match_low_quality)
            batch_size_per_image=SAMPLED,
            positive_fraction=0.5,
            pre_nms_top_n={"training": spec.rpn_pre_nms, "testing": max(spec.rpn_pre_nms // 2, 1)},
            post_nms_top_n={"training": post_nms, "testing": spec.rpn_post_nms},
            nms_thresh=dialect.nms(0.7),
        )
        self.dialect = dialect
        self._share = 1
        self._sizes: list[Size] = []

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals (n, 4) of every image, and in training the losses."""
        self._sizes = images.image_sizes
        return super().forward(images, features, targets)

    def post_nms_top_n(self) -> int:
        """Proposals of an image; where images share them, as many as one could have of all."""
        return super().post_nms_top_n() * self._share

    def filter_proposals(
        self, proposals: Tensor, objectness: Tensor, image_shapes: list[Size], num_anchors_per_level: list[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The best boxes after NMS, of each image or (Detectron in training) of the micro batch."""
        self._share = len(image_shapes) if self.dialect.pooled and self.training else 1
        boxes, scores = super().filter_proposals(proposals, objectness, image_shapes, num_anchors_per_level)
        together = torch.cat(scores)
        if self._share == 1 or len(together) <= self.post_nms_top_n():
            return boxes, scores
        kept = torch.zeros_like(together, dtype=torch.bool)
        kept[together.topk(self.post_nms_top_n()).indices] = True
        split = kept.split([len(score) for score in scores])
        chosen = zip(boxes, scores, split, strict=True)
        boxes, scores = zip(*((box[keep], score[keep]) for box, score, keep in chosen), strict=True)
        return list(boxes), list(scores)

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels (A,) 1, 0 or -1 (not learned from) and boxes (A, 4) of every image's anchors."""
        if not self.dialect.anchors_inside:
            return super().assign_targets_to_anchors(anchors, targets)
        labels, boxes = [], []
        for all_anchors, target, size in zip(anchors, targets, self._sizes, strict=True):
            inside = self._inside(all_anchors, size)
            (some_labels,), (some_boxes,) = super().assign_targets_to_anchors([all_anchors[inside]], [target])
            labels.append(some_labels.new_full((len(all_anchors),), -1).masked_scatter(inside, some_labels))
            boxes.append(all_anchors.clone())  # of no delta, where nothing is learned
            boxes[-1][inside] = some_boxes.to(all_anchors)
        return labels, boxes

    def _inside(self, anchors: Tensor, size: Size) -> Tensor:
        """Which anchors lie in an image's content; their last pixel in Detectron, their end in mmdetection."""
        height, width = size
        end = anchors[:, 2:] - 1 if self.dialect.last_pixel else anchors[:, 2:]
        return (anchors[:, :2] >= 0).all(1) & (end < end.new_tensor([width, height])).all(1)

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """BCE and (smooth) L1 over the sampled anchors of all images."""
        positive, negative = (torch.cat(masks).bool() for masks in self.fg_bg_sampler(labels))
        sampled = positive | negative
        if not sampled.any():  # images too small for an anchor inside
            return objectness.sum() * 0, pred_bbox_deltas.sum() * 0
        wanted = torch.cat(labels)[sampled]
        loss_objectness = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], wanted)
        error = F.smooth_l1_loss(
            pred_bbox_deltas[positive],
            torch.cat(regression_targets)[positive],
            beta=self.dialect.rpn_beta,
            reduction="sum",
        )
        if self.dialect.rpn_normaliser == "sampled":
            return loss_objectness, error / sampled.sum()
        total = SAMPLED * len(labels)
        return loss_objectness * sampled.sum() / total, error / total
