"""Boxes, classes and masks of proposals: torchvision's RoI heads, by the rules of a dialect."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads as TorchvisionRoIHeads
from torchvision.models.detection.roi_heads import maskrcnn_inference

from piip.contracts import Size
from piip.models.heads.boxes import BOX_POOL, MASK_POOL, RoIPool
from piip.models.heads.dialects import dialect_of
from piip.models.heads.mask_loss import mask_loss
from piip.models.heads.necks import norm_of
from piip.models.precision import at_least_fp32
from piip.spec import MaskBranchSpec, TwoStageSpec

Target = dict[str, Tensor]
Prediction = dict[str, Tensor]

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Of box deltas: 1 / mmdetection's standard deviations .1 .1 .2 .2."""


@dataclass
class Samples:
    """Proposals that are learned from; one tensor an image."""

    boxes: list[Tensor]
    """(k, 4)."""
    labels: list[Tensor]
    """(k,) 0 is background."""
    matched: list[Tensor]
    """(k,) the object whose box a proposal is compared with."""
    truth: list[Tensor]
    """(k, 4) that object's box."""
    are_objects: list[Tensor]
    """(k,) bool: no proposal, but an object's own box that was put beside them."""

    def positive(self) -> tuple[list[Tensor], list[Tensor]]:
        """Boxes (k, 4) of those that are no background, and the objects (k,) they are compared with."""
        index = [torch.where(label > 0)[0] for label in self.labels]
        boxes, matched = ([v[i] for v, i in zip(those, index, strict=True)] for those in (self.boxes, self.matched))
        return boxes, matched


class RoIHeads(TorchvisionRoIHeads):
    """Classes and boxes of proposals, and masks where there is a mask branch. Matching, drawing and postprocessing are torchvision's.

    Args:
        spec: Sizes and thresholds.
        box_head: Squares (K, C, 7, 7) -> (K, box_channels).
        iou: Overlap from which a proposal is an object.
        weights: Of box deltas.
        class_agnostic: One box for all classes.
        channels: Of the maps that boxes are cut from; None: of the spec's pyramid.
        width: Of what `box_head` gives; None: `box_channels`.
    """

    contiguous = False  # the mask head computes channels first, see SpeedSpec.layout
    mask_head: nn.Module

    def __init__(
        self,
        spec: TwoStageSpec,
        box_head: nn.Module,
        *,
        iou: float = 0.5,
        weights: Sequence[float] = WEIGHTS,
        class_agnostic: bool = False,
        channels: int | None = None,
        width: int | None = None,
    ) -> None:
        dialect, classes = dialect_of(spec), spec.num_classes + 1  # torchvision's heads count the background
        self.channels, width, strides = channels or spec.fpn_channels, width or spec.box_channels, spec.form.box_strides
        predictor = FastRCNNPredictor(width, classes)
        if class_agnostic:
            predictor.bbox_pred = nn.Linear(width, 4)
        masks = (None, None, None)
        if isinstance(spec, MaskBranchSpec):
            given = spec.mask_channels if spec.mask_convs else self.channels
            masks = (
                RoIPool(MASK_POOL, strides, dialect),
                MaskRCNNHeads(
                    self.channels, [spec.mask_channels] * spec.mask_convs, dilation=1, norm_layer=norm_of(spec)
                ),
                MaskRCNNPredictor(given, spec.mask_channels, classes),
            )
        super().__init__(
            RoIPool(BOX_POOL, strides, dialect), box_head, predictor, iou, iou, spec.box_samples, 0.25, tuple(weights),
            spec.score_threshold, dialect.nms(spec.nms_threshold), spec.max_detections, *masks,
        )  # fmt: skip
        self.dialect, self.spec = dialect, spec

    def forward(  # type: ignore[override]
        self,
        features: Sequence[Tensor],
        proposals: list[Tensor],
        image_shapes: list[Size],
        targets: list[Target] | None = None,
    ) -> tuple[list[Prediction], dict[str, Tensor]]:
        """Predictions in evaluation, losses in training; the other one is empty."""
        if self.training:
            samples = self.sampled(proposals, targets or [])
            logits, deltas = self.boxes(features, samples.boxes)
            truth = torch.cat(self.box_coder.encode(samples.truth, samples.boxes))
            labels = torch.cat(samples.labels)
            losses = box_losses(logits, deltas, labels, truth, beta=self.dialect.box_beta)
            return [], losses | self.inside_losses(features, samples, image_shapes, targets or [])
        logits, deltas = self.boxes(features, proposals)
        found = self.postprocess_detections(logits, deltas, proposals, image_shapes)
        return predictions(*found, self.masks(features, found[0], found[2])), {}

    def sampled(self, proposals: list[Tensor], targets: list[Target]) -> Samples:
        """At most `box_samples` of an image's proposals (n, 4) and objects, a quarter of them positive where there are so many."""
        objects = [target["boxes"].to(box) for target, box in zip(targets, proposals, strict=True)]
        counts = [len(box) for box in proposals]
        proposals = self.add_gt_proposals(proposals, objects)
        matched, labels = self.assign_targets_to_proposals(proposals, objects, [t["labels"] for t in targets])
        samples = Samples([], [], [], [], [])
        for image, index in enumerate(self.subsample(labels)):
            own = objects[image] if len(objects[image]) else proposals[image].new_zeros(1, 4)
            samples.boxes.append(proposals[image][index])
            samples.labels.append(labels[image][index])
            samples.matched.append(matched[image][index])
            samples.truth.append(own[samples.matched[-1]])
            samples.are_objects.append(index >= counts[image])
        return samples

    def boxes(self, features: Sequence[Tensor], proposals: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (K, classes + 1), background first, and deltas (K, 4 or 4 * (classes + 1)) of the proposals of all images."""
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals)))
        return at_least_fp32(logits), at_least_fp32(deltas)

    def masks(self, features: Sequence[Tensor], boxes: list[Tensor], labels: list[Tensor]) -> list[Tensor] | None:
        """Probabilities (k, 1, 28, 28) inside the boxes of every image; None without a mask branch."""
        return maskrcnn_inference(self.mask_logits(features, boxes), labels) if self.has_mask() else None

    def mask_logits(self, features: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        """(K, classes + 1, 28, 28) inside the boxes of all images."""
        assert self.mask_roi_pool is not None
        return self.drawn(self.mask_roi_pool(features, boxes))

    def drawn(self, pooled: Tensor) -> Tensor:
        """Squares (K, C, 14, 14) -> mask logits (K, classes + 1, 28, 28)."""
        assert self.mask_predictor is not None
        if not self.contiguous:
            # on the CPU the transposed and the 1x1 convolution then take half the time and a seventh
            pooled = pooled.contiguous(memory_format=torch.channels_last)
        return at_least_fp32(self.mask_predictor(self.mask_head(pooled)))

    def inside_losses(
        self, features: Sequence[Tensor], samples: Samples, sizes: Sequence[Size], targets: list[Target]
    ) -> dict[str, Tensor]:
        """What is learned inside the boxes of the positive samples: `loss_mask`; nothing without a mask branch."""
        if not self.has_mask():
            return {}
        boxes, objects = samples.positive()
        logits = self.mask_logits(features, boxes)
        dialect = self.dialect
        loss = mask_loss(logits, boxes, targets, objects, sizes, aligned=dialect.aligned, soft=dialect.soft_masks)
        return {"loss_mask": loss}

    def probed(self, like: Tensor, boxes: int, masks: int) -> list[Tensor]:
        """What `boxes` boxes and `masks` masks of one head are computed to; `like` is any map, for its type and device."""
        channels, learns = self.channels, self.training
        pooled = like.new_empty(boxes, channels, BOX_POOL, BOX_POOL).requires_grad_(learns)
        found = [*self.box_predictor(self.box_head(pooled))]
        if not self.has_mask():
            return found
        pooled = like.new_empty(masks, channels, MASK_POOL, MASK_POOL).requires_grad_(learns)
        assert self.mask_predictor is not None
        return [*found, self.mask_predictor(self.mask_head(pooled))]


def build_box_head(spec: TwoStageSpec, channels: int) -> nn.Module:
    """Squares (K, channels, 7, 7) -> (K, box_channels): two linear layers, or convolutions and one, as the form has it."""
    if not spec.form.box_convs:
        return TwoMLPHead(channels * BOX_POOL**2, spec.box_channels)
    convs = [spec.fpn_channels] * spec.form.box_convs
    return FastRCNNConvFCHead((channels, BOX_POOL, BOX_POOL), convs, [spec.box_channels], norm_layer=norm_of(spec))


def build_roi_heads(spec: TwoStageSpec, channels: int | None = None) -> RoIHeads:
    """What the form has for boxes, and the mask branch where there is one."""
    channels = channels or spec.fpn_channels
    box_head = build_box_head(spec, channels)
    return RoIHeads(spec, box_head, channels=channels)


def predictions(
    boxes: list[Tensor], scores: list[Tensor], labels: list[Tensor], masks: list[Tensor] | None
) -> list[Prediction]:
    """One an image, of `postprocess_detections`."""
    found = [{"boxes": b, "labels": c, "scores": s} for b, s, c in zip(boxes, scores, labels, strict=True)]
    for prediction, mask in zip(found, masks or [], strict=masks is not None):
        prediction["masks"] = mask
    return found


def own_class(deltas: Tensor, labels: Tensor) -> Tensor:
    """The four numbers (K, 4) of each row's class, out of (K, 4 * (classes + 1)); or the four there are, for all classes."""
    return deltas.unflatten(1, (-1, 4))[torch.arange(len(deltas), device=deltas.device), labels * (deltas.shape[1] > 4)]


def box_losses(
    logits: Tensor, deltas: Tensor, labels: Tensor, targets: Tensor, *, beta: float = 0.0
) -> dict[str, Tensor]:
    """Cross entropy over K sampled proposals, and (smooth) L1 over the positive ones' own class.

    Both are sums divided by K, so no proposals at all give 0 and not nan.

    Args:
        logits: (K, classes + 1), background first.
        deltas: (K, 4 * (classes + 1)), or (K, 4) for all classes.
        labels: (K,), 0 is background.
        targets: (K, 4) encoded boxes.
        beta: Of smooth L1; 0 is L1.
    """
    samples = max(len(labels), 1)
    positive = torch.where(labels > 0)[0]
    found = own_class(deltas[positive], labels[positive])
    return {
        "loss_classifier": F.cross_entropy(logits, labels, reduction="sum") / samples,
        "loss_box": F.smooth_l1_loss(found, targets[positive], beta=beta, reduction="sum") / samples,
    }
