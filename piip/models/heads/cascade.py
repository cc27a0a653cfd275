"""Cascade R-CNN (arXiv 1712.00726) as in mmdetection: three box heads in a row, each on the boxes of the one before."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.ops import clip_boxes_to_image, generalized_box_iou_loss

from piip.contracts import Size
from piip.models.heads.boxes import BOX_POOL
from piip.models.heads.roi_heads import Prediction, RoIHeads, Samples, Target, box_losses, own_class, predictions
from piip.spec import CascadeSpec

BOX_WEIGHT = {"smooth_l1": 1.0, "giou": 10.0}
"""Of the box loss, beside the classes'."""


class Cascade(nn.Module):
    """Stages of rising overlap: RoI heads, each with its own mask branch where there is one.

    In training every stage learns from its own draw of the boxes that the stage before it gives. In evaluation logits and mask
    probabilities are averaged over the stages.

    Args:
        spec: Sizes, and the stages' overlaps, spreads and weights.
        channels: Of the maps that boxes are cut from, which are the spec's pyramid's.
    """

    def __init__(self, spec: CascadeSpec, channels: int | None = None) -> None:
        del channels
        super().__init__()
        self.spec = spec
        self.stages: Sequence[RoIHeads] = nn.ModuleList(  # type: ignore[assignment]
            RoIHeads(spec, box_head(spec), iou=iou, weights=[1 / s for s in stds], class_agnostic=spec.class_agnostic)
            for iou, stds in zip(spec.stage_ious, spec.stage_stds, strict=True)
        )

    def forward(
        self,
        features: Sequence[Tensor],
        proposals: list[Tensor],
        image_shapes: list[Size],
        targets: list[Target] | None = None,
    ) -> tuple[list[Prediction], dict[str, Tensor]]:
        """Predictions in evaluation, losses in training; the other one is empty."""
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets or [])
        logits, deltas = [], torch.empty(0)
        for stage in self.stages:
            if logits:
                proposals = refined(self.stages[len(logits) - 1], logits[-1], deltas, proposals, image_shapes)
            one, deltas = stage.boxes(features, proposals)
            logits.append(one)
        every_class = deltas if deltas.shape[1] > 4 else deltas.repeat(1, logits[-1].shape[1])
        mean = torch.stack(logits).mean(dim=0)
        boxes, scores, labels = self.stages[-1].postprocess_detections(mean, every_class, proposals, image_shapes)
        return predictions(boxes, scores, labels, self._masks(features, boxes, labels)), {}

    def probed(self, like: Tensor, boxes: int, masks: int) -> list[Tensor]:
        """What all stages compute."""
        return [out for stage in self.stages for out in stage.probed(like, boxes, masks)]

    def _masks(self, features: Sequence[Tensor], boxes: list[Tensor], labels: list[Tensor]) -> list[Tensor] | None:
        found = [stage.masks(features, boxes, labels) for stage in self.stages]
        drawn = [masks for masks in found if masks is not None]
        return [torch.stack(masks).mean(dim=0) for masks in zip(*drawn, strict=True)] if drawn else None

    def _losses(
        self, features: Sequence[Tensor], proposals: list[Tensor], image_shapes: list[Size], targets: list[Target]
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for number, (stage, weight) in enumerate(zip(self.stages, self.spec.stage_weights, strict=True), 1):
            samples = stage.sampled(proposals, targets)
            logits, deltas = stage.boxes(features, samples.boxes)
            own = self._box_losses(stage, samples, logits, deltas) | stage.inside_losses(
                features, samples, image_shapes, targets
            )
            losses |= {f"{name}_{number}": weight * loss for name, loss in own.items()}
            boxes = refined(stage, logits.detach(), deltas.detach(), samples.boxes, image_shapes, samples.labels)
            # what are no proposals but objects, every stage is given anew
            proposals = [box[~known] for box, known in zip(boxes, samples.are_objects, strict=True)]
        return losses

    def _box_losses(self, stage: RoIHeads, samples: Samples, logits: Tensor, deltas: Tensor) -> dict[str, Tensor]:
        labels = torch.cat(samples.labels)
        encoded = torch.cat(stage.box_coder.encode(samples.truth, samples.boxes))
        losses = box_losses(logits, deltas, labels, encoded, beta=stage.dialect.box_beta)
        if self.spec.box_loss == "giou":
            positive = torch.where(labels > 0)[0]
            chosen = own_class(deltas[positive], labels[positive])
            boxes = stage.box_coder.decode_single(chosen, torch.cat(samples.boxes)[positive])
            error = generalized_box_iou_loss(boxes, torch.cat(samples.truth)[positive], reduction="sum")
            losses["loss_box"] = error / max(len(labels), 1)
        losses["loss_box"] = BOX_WEIGHT[self.spec.box_loss] * losses["loss_box"]
        return losses


def refined(
    stage: RoIHeads,
    logits: Tensor,
    deltas: Tensor,
    boxes: list[Tensor],
    image_shapes: Sequence[Size],
    labels: list[Tensor] | None = None,
) -> list[Tensor]:
    """The boxes (k, 4) of every image moved by a stage's deltas, inside the image's content.

    Args:
        stage: That computed these.
        logits: (K, classes + 1) for the boxes of all images, background first.
        deltas: (K, 4 * (classes + 1)), or (K, 4) for all classes.
        boxes: What the stage saw.
        image_shapes: Height and width of every image's content.
        labels: In training, the truth: an object's box is moved as its class says, others as the likeliest class.
    """
    likeliest = logits[:, 1:].argmax(dim=1) + 1
    if labels is not None:
        known = torch.cat(labels)
        likeliest = torch.where(known > 0, known, likeliest)
    moved = stage.box_coder.decode_single(own_class(deltas, likeliest), torch.cat(boxes))
    split = moved.split([len(box) for box in boxes])
    return [clip_boxes_to_image(box, shape) for box, shape in zip(split, image_shapes, strict=True)]


class ConvFCHead(FastRCNNConvFCHead):
    """torchvision's, for no boxes at all, too: BatchNorm has no mean of nothing (SyncBatchNorm has: other workers' boxes)."""

    def forward(self, input: Tensor) -> Tensor:
        """Squares (K, C, 7, 7) -> (K, box_channels)."""
        if len(input) or not self.training or any(isinstance(part, nn.SyncBatchNorm) for part in self.modules()):
            return super().forward(input)
        width = next(layer.out_features for layer in reversed(self) if isinstance(layer, nn.Linear))
        reached = sum((p.sum() * 0 for p in self.parameters()), input.sum())
        return reached.expand(0, width)


def box_head(spec: CascadeSpec) -> nn.Module:
    """Two linear layers, or convolutions with BatchNorm and one."""
    if not spec.box_convs:
        return TwoMLPHead(spec.fpn_channels * BOX_POOL**2, spec.box_channels)
    return ConvFCHead(
        (spec.fpn_channels, BOX_POOL, BOX_POOL),
        [spec.fpn_channels] * spec.box_convs,
        [spec.box_channels],
        norm_layer=nn.BatchNorm2d,
    )
