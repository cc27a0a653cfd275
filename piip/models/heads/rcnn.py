"""Two-stage detectors: a feature pyramid, region proposals, and heads for boxes (and masks) on what was proposed."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from piip.contracts import Size
from piip.models.heads.necks import build_neck
from piip.models.heads.proposals import RPN
from piip.models.precision import Fp32Head, at_least_fp32, head_precision
from piip.spec import TwoStageSpec

Prediction = dict[str, Tensor]
S = TypeVar("S", bound=TwoStageSpec)


class OnProposals(Protocol):
    """What reads proposals: `RoIHeads`, or a `Cascade` of them."""

    def __call__(
        self,
        features: Sequence[Tensor],
        proposals: list[Tensor],
        image_shapes: list[Size],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[Prediction], dict[str, Tensor]]:
        """Predictions in evaluation, losses in training; the other one is empty."""
        ...

    def probed(self, like: Tensor, boxes: int, masks: int) -> Sequence[Tensor]:
        """What `boxes` boxes and `masks` masks are computed to; `like` is any map, for its type and device."""
        ...


class RCNN(Fp32Head):
    """Faster, Mask and Cascade R-CNN (arXiv 1506.01497, 1703.06870, 1712.00726), on torchvision's parts, by the rules of a dialect.

    Images come resized, normalised and padded; nothing is resized here. The neck runs under whatever autocast is on, as the backbone;
    proposals and heads run in fp32, as in the official code. Without `fp32_heads` their layers run under autocast, too, and boxes,
    RoIAlign, NMS and losses in fp32 (torchvision's roi_align and nms refuse bf16 on the CPU).

    Args:
        channels: Of the backbone's maps.
        spec: Sizes and thresholds.
        roi_heads: Makes what reads the proposals of the spec and the maps' channels; last, as initial weights are drawn in this order.
    """

    def __init__(self, channels: Sequence[int], spec: S, roi_heads: Callable[[S, int], OnProposals]) -> None:
        super().__init__()
        self.spec = spec
        width = spec.fpn_channels if spec.form.has_pyramid else channels[0]
        self.neck = build_neck(channels, spec)
        self.rpn = RPN(spec, width)
        self.roi_heads = roi_heads(spec, width)

    def forward(
        self, features: Sequence[Tensor], sizes: Sequence[Size], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[Prediction]:
        """Losses in training, predictions in evaluation.

        Args:
            features: Maps (B, C, H / s, W / s), s as the form has it: 4, 8, 16, 32, or one.
            sizes: Height and width of every image's content.
            targets: In training, per image: boxes (n, 4) xyxy in pixels, labels (n,) from 1 and, with a mask branch, mask_runs
                (R, 4) of their masks (piip/ops/mask_runs.py). n may be 0.

        Returns:
            Training: loss_objectness, loss_rpn_box, loss_classifier, loss_box, and with a mask branch loss_mask; of a cascade the last
            three once a stage, with `_1` to `_3` behind. Evaluation, per image: boxes (K, 4) xyxy in pixels of the padded input, labels
            (K,) from 1, scores (K,) falling and, with a mask branch, masks (K, 1, 28, 28) probabilities in the box.
        """
        pyramid = self.pyramid(features)
        device = features[0].device
        # torchvision's parts and our anchors read its sizes, never its tensors
        image_list = ImageList(features[0], [(height, width) for height, width in sizes])
        objects = None if targets is None else [dict(target) for target in targets]
        with head_precision(device, fp32=self.fp32_heads):
            pyramid = OrderedDict((name, at_least_fp32(feature)) for name, feature in pyramid.items())
            proposals, rpn_losses = self.rpn(image_list, pyramid, objects)
            # coarser levels are for proposals only
            levels = list(pyramid.values())[: len(self.spec.form.box_strides)]
            predictions, losses = self.roi_heads(levels, proposals, image_list.image_sizes, objects)
        if not self.training:
            return predictions
        return {
            "loss_objectness": rpn_losses["loss_objectness"],
            "loss_rpn_box": rpn_losses["loss_rpn_box_reg"],
            **losses,
        }

    def pyramid(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """The maps that proposals are made on, from the backbone's: of a pyramid five at strides 4 to 64, "0" to "3" and "pool"."""
        levels = self.neck(OrderedDict((str(level), feature) for level, feature in enumerate(maps)))
        return OrderedDict(list(levels.items())[: len(self.spec.form.proposal_strides)])

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
                return roi.probed(pyramid[0], boxes, masks)

        return {"neck": neck, "rpn": rpn, "roi_heads": roi_heads}
