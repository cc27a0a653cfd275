"""RetinaNet (arXiv 1708.02002) as in Detectron2's `retinanet_R_50_FPN`, on torchvision's parts."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import (
    FeaturePyramidNetwork,
    batched_nms,
    box_iou,
    clip_boxes_to_image,
    remove_small_boxes,
    sigmoid_focal_loss,
)
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from piip.contracts import Size
from piip.models.heads.boxes import RATIOS, Anchors
from piip.models.layers.statistics import mean_over_workers
from piip.models.precision import Fp32Head, at_least_fp32, head_precision
from piip.spec import RetinaNetSpec

OCTAVE = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
"""Anchor sides of a level, times `anchor_scale` strides."""
GROUPS = 32
"""Of the towers' GroupNorm."""
MOMENTUM = 0.9
"""Of the running mean of positive anchors, which losses are divided by."""


class RetinaNet(Fp32Head):
    """Three maps -> a class and a box at every anchor of five levels, strides 8 to 128.

    The head runs in fp32, unless `fp32_heads` is off (then its layers run under autocast, boxes, NMS and losses in fp32).

    Args:
        channels: Of the backbone's three maps.
        spec: Sizes, losses and thresholds.
    """

    def __init__(self, channels: Sequence[int], spec: RetinaNetSpec) -> None:
        super().__init__()
        self.spec, width = spec, spec.fpn_channels
        extra = LastLevelP6P7(width if spec.extra_levels == "p5" else channels[-1], width)
        extra.use_P5 = spec.extra_levels == "p5"  # torchvision goes by the channels alone
        self.neck = FeaturePyramidNetwork(list(channels), width, extra_blocks=extra)
        self.anchors = Anchors([spec.anchor_scale * part for part in OCTAVE], (8, 16, 32, 64, 128))
        norm = partial(nn.GroupNorm, GROUPS) if spec.tower_norm == "group" else None
        self.head = RetinaNetHead(width, len(RATIOS) * len(OCTAVE), spec.num_classes, norm)
        self.box_coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
        # every object's best anchor is positive, too
        self.matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
        self.normaliser: Tensor
        self.register_buffer("normaliser", torch.tensor(100.0))

    def forward(
        self, features: Sequence[Tensor], sizes: Sequence[Size], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, predictions in evaluation.

        Args:
            features: Three maps (B, C, H / s, W / s), s = 8, 16, 32.
            sizes: Height and width of every image's content.
            targets: In training, per image: boxes (n, 4) xyxy in pixels, labels (n,) from 1. n may be 0.

        Returns:
            Training: loss_cls, loss_box. Evaluation, per image: boxes (K, 4) xyxy in pixels of the padded input, labels (K,) from 1,
            scores (K,) falling.
        """
        pyramid = self.pyramid(features)
        levels = self.anchors.of_maps(pyramid)
        logits, deltas = self._found(pyramid)
        if self.training:
            assert targets is not None
            return self._losses(logits, deltas, torch.cat(levels), targets)
        counts = [len(level) for level in levels]
        return [
            self._prediction(list(one.split(counts)), list(moves.split(counts)), levels, size)
            for one, moves, size in zip(logits, deltas, sizes, strict=True)
        ]

    def pyramid(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Five maps at strides 8 to 128 from the backbone's three."""
        return list(self.neck(OrderedDict((str(level), feature) for level, feature in enumerate(maps))).values())

    def probe(self, features: Sequence[Tensor]) -> dict[str, Callable[[], Sequence[Tensor]]]:
        """`neck` and `head`; NMS and losses are left out."""
        pyramid: list[Tensor] = []

        def neck() -> Sequence[Tensor]:
            pyramid[:] = self.pyramid(features)
            return []  # the maps go on to the head

        return {"neck": neck, "head": lambda: list(self._found(pyramid))}

    def _found(self, pyramid: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (B, A, classes) and deltas (B, A, 4) of the anchors of all levels."""
        with head_precision(pyramid[0].device, fp32=self.fp32_heads):
            maps = [at_least_fp32(feature) for feature in pyramid]
            # not the head itself: it gives a dict, which DeepSpeed's ZeRO-3 does not follow
            logits, deltas = self.head.classification_head(maps), self.head.regression_head(maps)
        return at_least_fp32(logits), at_least_fp32(deltas)

    def _losses(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Focal loss over all anchors but the doubtful, and (smooth) L1 over the positive."""
        assigned = [self._assigned(anchors, target) for target in targets]
        labels_BA, boxes_BA4 = (torch.stack(part) for part in zip(*assigned, strict=True))
        positive, known = labels_BA > 0, labels_BA >= 0
        self._count(positive)
        wanted = F.one_hot(labels_BA.clamp(min=0), self.spec.num_classes + 1)[..., 1:].to(logits)
        alpha, gamma = self.spec.focal_alpha, self.spec.focal_gamma
        loss_cls = sigmoid_focal_loss(logits[known], wanted[known], alpha, gamma, reduction="sum")
        moves = self.box_coder.encode_single(boxes_BA4[positive], anchors.expand_as(boxes_BA4)[positive])
        loss_box = F.smooth_l1_loss(deltas[positive], moves, beta=self.spec.box_beta, reduction="sum")
        share = self.normaliser.clone()
        return {"loss_cls": loss_cls / share, "loss_box": loss_box / share}

    @torch.no_grad()
    def _count(self, positive: Tensor) -> None:
        """Takes the positive anchors of a micro batch into the running mean: of all workers, whose losses are divided by one number."""
        # in place: DDP keeps the tensors it found
        self.normaliser.mul_(MOMENTUM).add_((1 - MOMENTUM) * mean_over_workers(positive.sum().float()))

    def _assigned(self, anchors: Tensor, target: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """An image's labels (A,), 0 for background and -1 for what is learned from by no one, and the boxes (A, 4) of its objects."""
        boxes = target["boxes"].to(anchors)
        if not len(boxes):
            return torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device), torch.zeros_like(anchors)
        matched = self.matcher(box_iou(boxes, anchors))
        labels = target["labels"][matched.clamp(min=0)]
        labels = labels.masked_fill(matched == Matcher.BELOW_LOW_THRESHOLD, 0)
        return labels.masked_fill(matched == Matcher.BETWEEN_THRESHOLDS, -1), boxes[matched.clamp(min=0)]

    def _prediction(
        self, logits: list[Tensor], deltas: list[Tensor], anchors: list[Tensor], size: Size
    ) -> dict[str, Tensor]:
        """One image's, from logits (A, classes), deltas (A, 4) and anchors (A, 4) of every level."""
        levels = zip(logits, deltas, anchors, strict=True)
        boxes, scores, labels = (
            torch.cat(part) for part in zip(*(self._best(*level) for level in levels), strict=True)
        )
        kept = batched_nms(boxes, scores, labels, self.spec.nms_threshold)[: self.spec.max_detections]
        boxes = clip_boxes_to_image(boxes[kept], size)
        inside = remove_small_boxes(boxes, 1e-3)
        return {"boxes": boxes[inside], "labels": labels[kept][inside], "scores": scores[kept][inside]}

    def _best(self, logits: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The `pre_nms` best classes of a level's anchors: boxes (n, 4), scores (n,), labels (n,) from 1."""
        scores = logits.sigmoid().flatten()
        sure = torch.where(scores > self.spec.score_threshold)[0]
        scores, order = scores[sure].topk(min(self.spec.pre_nms, len(sure)))
        anchor, label = sure[order] // logits.shape[1], sure[order] % logits.shape[1]
        return self.box_coder.decode_single(deltas[anchor], anchors[anchor]), scores, label + 1
