"""Mask R-CNN as in mmdetection's `mask_rcnn_r50_fpn`, on torchvision's parts. Where the two differ, mmdetection's way and a comment."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads as TorchvisionRoIHeads
from torchvision.models.detection.roi_heads import maskrcnn_inference
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from piip.contracts import Size
from piip.models.heads.boxes import BOX_POOL, MASK_POOL, RATIOS, Anchors, RoIPool
from piip.models.heads.mask_loss import mask_loss
from piip.models.precision import Fp32Head, at_least_fp32, head_precision
from piip.spec import MaskRCNNSpec

Target = dict[str, Tensor]
Prediction = dict[str, Tensor]


class FloatRPNHead(RPNHead):
    """torchvision's, with outputs in fp32 under autocast, too."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps (B, C, H_l, W_l) -> objectness (B, A, H_l, W_l) and deltas (B, 4 * A, H_l, W_l) of A anchors."""
        objectness, deltas = super().forward(x)
        return [at_least_fp32(o) for o in objectness], [at_least_fp32(d) for d in deltas]


class RPN(RegionProposalNetwork):
    """torchvision's region proposals with mmdetection's loss."""

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """BCE and L1 over the sampled anchors of all images; torchvision has smooth L1 with beta 1/9."""
        positive, negative = (torch.cat(masks).bool() for masks in self.fg_bg_sampler(labels))
        sampled = positive | negative
        loss_objectness = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], torch.cat(labels)[sampled])
        error = F.l1_loss(pred_bbox_deltas[positive], torch.cat(regression_targets)[positive], reduction="sum")
        return loss_objectness, error / sampled.sum()


class RoIHeads(TorchvisionRoIHeads):
    """Boxes, classes and masks of the proposals. Assignment, sampling and postprocessing are torchvision's."""

    contiguous = False  # the mask head computes channels first, see SpeedSpec.layout
    mask_roi_pool: nn.Module
    mask_head: nn.Module
    mask_predictor: nn.Module

    def forward(  # type: ignore[override]
        self,
        features: Sequence[Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[Prediction], dict[str, Tensor]]:
        """Predictions in evaluation, losses in training; the other one is empty."""
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets or [])
        logits, deltas = self._boxes(features, proposals)
        boxes, scores, labels = self.postprocess_detections(logits, deltas, proposals, image_shapes)
        masks = maskrcnn_inference(self._masks(features, boxes), labels)
        found = zip(boxes, labels, scores, masks, strict=True)
        return [{"boxes": b, "labels": c, "scores": s, "masks": m} for b, c, s, m in found], {}

    def check_targets(self, targets: list[Target] | None) -> None:
        """Masks are there as runs; torchvision asks for arrays under another name."""
        assert targets is not None, "training needs targets"
        assert all({"boxes", "labels", "mask_runs"} <= target.keys() for target in targets), "boxes, labels, mask_runs"

    def _boxes(self, features: Sequence[Tensor], proposals: list[Tensor]) -> tuple[Tensor, Tensor]:
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals)))
        return at_least_fp32(logits), at_least_fp32(deltas)

    def _masks(self, features: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        pooled = self.mask_roi_pool(features, boxes)
        if not self.contiguous:
            # on the CPU the transposed and the 1x1 convolution then take half the time and a seventh
            pooled = pooled.contiguous(memory_format=torch.channels_last)
        return at_least_fp32(self.mask_predictor(self.mask_head(pooled)))

    def _losses(
        self, features: Sequence[Tensor], proposals: list[Tensor], sizes: Sequence[Size], targets: list[Target]
    ) -> dict[str, Tensor]:
        proposals, matched, labels, deltas = self.select_training_samples(proposals, targets)
        loss_classifier, loss_box = box_losses(*self._boxes(features, proposals), torch.cat(labels), torch.cat(deltas))

        positive = [torch.where(label > 0)[0] for label in labels]
        boxes = [b[index] for b, index in zip(proposals, positive, strict=True)]
        objects = [m[index] for m, index in zip(matched, positive, strict=True)]
        loss_mask = mask_loss(self._masks(features, boxes), boxes, targets, objects, sizes)
        return {"loss_classifier": loss_classifier, "loss_box": loss_box, "loss_mask": loss_mask}


def box_losses(logits: Tensor, deltas: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy over K sampled proposals, and L1 over the positive ones' own class (torchvision: smooth L1 with beta 1/9).

    Both are sums divided by K, so no proposals at all give 0 and not nan.

    Args:
        logits: (K, classes + 1), background first.
        deltas: (K, 4 * (classes + 1)).
        labels: (K,), 0 is background.
        targets: (K, 4) encoded boxes.
    """
    samples = max(len(labels), 1)
    positive = torch.where(labels > 0)[0]
    own_class = deltas.unflatten(1, (-1, 4))[positive, labels[positive]]
    loss_classifier = F.cross_entropy(logits, labels, reduction="sum") / samples
    return loss_classifier, F.l1_loss(own_class, targets[positive], reduction="sum") / samples


class MaskRCNN(Fp32Head):
    """Feature pyramid, region proposals, box and mask heads.

    Images come resized, normalised and padded; nothing is resized here. The neck runs under whatever autocast is on, as the backbone;
    proposals and heads run in fp32, as in the official code. Without `fp32_heads` their layers run under autocast, too, and boxes,
    RoIAlign, NMS and losses in fp32 (torchvision's roi_align and nms refuse bf16 on the CPU).

    Args:
        channels: Of the backbone's four maps.
        spec: Sizes and thresholds.
    """

    def __init__(self, channels: Sequence[int], spec: MaskRCNNSpec) -> None:
        super().__init__()
        self.spec = spec
        self.neck = FeaturePyramidNetwork(list(channels), spec.fpn_channels, extra_blocks=LastLevelMaxPool())
        self.rpn = build_rpn(spec)
        self.roi_heads = build_roi_heads(spec)

    def forward(
        self, features: Sequence[Tensor], sizes: Sequence[Size], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[Prediction]:
        """Losses in training, predictions in evaluation.

        Args:
            features: Four maps (B, C, H / s, W / s), s = 4, 8, 16, 32.
            sizes: Height and width of every image's content.
            targets: In training, per image: boxes (n, 4) xyxy in pixels, labels (n,) from 1, mask_runs (R, 4) of their masks
                (piip/ops/mask_runs.py). n may be 0.

        Returns:
            Training: loss_objectness, loss_rpn_box, loss_classifier, loss_box, loss_mask. Evaluation, per image: boxes (K, 4) xyxy
            in pixels of the padded input, labels (K,) from 1, scores (K,) falling, masks (K, 1, 28, 28) probabilities in the box.
        """
        pyramid = self.pyramid(features)
        device = features[0].device
        # torchvision's parts and our anchors read its sizes, never its tensors
        image_list = ImageList(features[0], [(height, width) for height, width in sizes])
        objects = None if targets is None else [dict(target) for target in targets]
        with head_precision(device, fp32=self.fp32_heads):
            pyramid = OrderedDict((name, at_least_fp32(feature)) for name, feature in pyramid.items())
            proposals, rpn_losses = self.rpn(image_list, pyramid, objects)
            levels = list(pyramid.values())[:-1]  # the fifth level is for proposals only
            predictions, losses = self.roi_heads(levels, proposals, image_list.image_sizes, objects)
        if not self.training:
            return predictions
        return {
            "loss_objectness": rpn_losses["loss_objectness"],
            "loss_rpn_box": rpn_losses["loss_rpn_box_reg"],
            **losses,
        }

    def pyramid(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """Five maps at strides 4 to 64, named "0" to "3" and "pool", from the backbone's four."""
        return self.neck(OrderedDict((str(level), feature) for level, feature in enumerate(maps)))

    def probe(self, features: Sequence[Tensor]) -> dict[str, Callable[[], Sequence[Tensor]]]:
        """`neck`, `rpn`, `roi_heads`; NMS, RoIAlign and losses are left out.

        RoI heads see in training `box_samples` boxes an image, a quarter of them with masks; in evaluation `rpn_post_nms` boxes and
        `max_detections` masks.
        """
        pyramid: list[Tensor] = []
        spec, images, roi = self.spec, len(features[0]), self.roi_heads
        boxes = spec.box_samples * images if self.training else spec.rpn_post_nms * images
        masks = boxes // 4 if self.training else spec.max_detections * images

        def neck() -> Sequence[Tensor]:
            pyramid[:] = self.pyramid(features).values()
            return []  # the maps go on to the proposals

        def rpn() -> Sequence[Tensor]:
            with head_precision(features[0].device, fp32=self.fp32_heads):
                pyramid[:] = [at_least_fp32(feature) for feature in pyramid]
                logits, deltas = self.rpn.head(pyramid)
                return [*pyramid, *logits, *deltas]

        def roi_heads() -> Sequence[Tensor]:
            with head_precision(features[0].device, fp32=self.fp32_heads):
                pooled = [
                    pyramid[0].new_empty(count, spec.fpn_channels, side, side).requires_grad_(self.training)
                    for count, side in ((boxes, BOX_POOL), (masks, MASK_POOL))
                ]
                found = roi.box_predictor(roi.box_head(pooled[0]))
                return [*found, roi.mask_predictor(roi.mask_head(pooled[1]))]

        return {"neck": neck, "rpn": rpn, "roi_heads": roi_heads}


def build_rpn(spec: MaskRCNNSpec) -> RPN:
    """Region proposals on five levels, with mmdetection's figures."""
    return RPN(
        Anchors(spec.anchor_scale, strides=(4, 8, 16, 32, 64)),  # type: ignore[arg-type]
        FloatRPNHead(spec.fpn_channels, num_anchors=len(RATIOS)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,  # and every object's best anchor is positive (match_low_quality)
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": spec.rpn_pre_nms, "testing": max(spec.rpn_pre_nms // 2, 1)},
        post_nms_top_n={"training": spec.rpn_post_nms, "testing": spec.rpn_post_nms},
        nms_thresh=0.7,
    )


def build_roi_heads(spec: MaskRCNNSpec) -> RoIHeads:
    """Box and mask heads, with mmdetection's figures."""
    classes = spec.num_classes + 1  # torchvision's heads count the background
    return RoIHeads(
        RoIPool(BOX_POOL),
        TwoMLPHead(spec.fpn_channels * BOX_POOL**2, spec.box_channels),
        FastRCNNPredictor(spec.box_channels, classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=spec.box_samples,
        positive_fraction=0.25,
        bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),  # 1 / mmdetection's standard deviations .1 .1 .2 .2
        score_thresh=spec.score_threshold,
        nms_thresh=spec.nms_threshold,
        detections_per_img=spec.max_detections,
        mask_roi_pool=RoIPool(MASK_POOL),
        mask_head=MaskRCNNHeads(spec.fpn_channels, [spec.mask_channels] * spec.mask_convs, dilation=1),
        mask_predictor=MaskRCNNPredictor(
            spec.mask_channels if spec.mask_convs else spec.fpn_channels, spec.mask_channels, classes
        ),
    )
