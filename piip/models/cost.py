"""What a model costs: parameters, and multiply-adds of the real network on a real input size."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from piip.models import build_model
from piip.models.boxes import BOX_POOL, MASK_POOL
from piip.models.piip import PIIP
from piip.models.rcnn import MaskRCNN
from piip.spec import MaskRCNNSpec, ModelSpec


@dataclass(frozen=True)
class Cost:
    """Compute of one image and size of the network."""

    gflops: float
    """1e9 multiply-adds (MAC = 1, as the papers count): backbone, neck, proposals and heads."""
    params_m: float
    """Million parameters."""
    parts: dict[str, tuple[float, float]]
    """Name -> (gflops, params_m); sums to the whole. PIIP: `branches.0` .. `branches.N-1`, `interactions`, `merge` (with the
    simple pyramid); a CNN: `backbone`. Then `neck`, `rpn`, `roi_heads`."""

    @property
    def backbone_gflops(self) -> float:
        """Without neck, proposals and heads."""
        return sum(gflops for name, (gflops, _) in self.parts.items() if name not in ("neck", "rpn", "roi_heads"))


def cost(spec: ModelSpec, height: int, width: int) -> Cost:
    """Counts on the meta device: no memory, no arithmetic, a second.

    Matrix products, convolutions, attention (with the padding of its windows) and deformable sampling count; norms,
    activations and resizing do not. The box head counts `rpn_post_nms` boxes and the mask head `max_detections` masks, the
    most an image can have; proposals' NMS and RoIAlign do not count.

    Args:
        spec: The model.
        height: Of the padded input in pixels.
        width: Of the padded input in pixels.
    """
    with torch.device("meta"), torch.no_grad():
        model = build_model(spec, pretrained=False).eval()
        assert isinstance(model, MaskRCNN)
        assert isinstance(spec.head, MaskRCNNSpec)
        images = torch.empty(1, 3, height, width)
        parts = _backbone_parts(model.backbone, images)
        maps = model.backbone(images)
        features = list(model.features(images).values())
        roi = model.roi_heads
        boxes = torch.empty(spec.head.rpn_post_nms, spec.head.fpn_channels, BOX_POOL, BOX_POOL)
        masks = torch.empty(spec.head.max_detections, spec.head.fpn_channels, MASK_POOL, MASK_POOL)

        def heads() -> None:
            roi.box_predictor(roi.box_head(boxes))
            roi.mask_predictor(roi.mask_head(masks))

        parts["neck"] = _gmacs(lambda: model.pyramid(maps)), _params_m(model.neck)
        parts["rpn"] = _gmacs(lambda: model.rpn.head(features)), _params_m(model.rpn)
        parts["roi_heads"] = _gmacs(heads), _params_m(roi)
    return Cost(sum(gflops for gflops, _ in parts.values()), _params_m(model), parts)


def _backbone_parts(backbone: nn.Module, images: torch.Tensor) -> dict[str, tuple[float, float]]:
    total = _gmacs(lambda: backbone(images)), _params_m(backbone)
    if not isinstance(backbone, PIIP):
        return {"backbone": total}
    parts = {}
    for i, (branch, image) in enumerate(zip(backbone.branches, backbone.image_pyramid(images), strict=True)):
        parts[f"branches.{i}"] = _gmacs(lambda branch=branch, image=image: branch(image)), _params_m(branch)
    points = backbone.merge_points(images)
    fusing = [module for module in (backbone.merge, backbone.pyramid) if module is not None]
    merge = (
        _gmacs(lambda: backbone.fuse([points[step] for step in [*backbone.merge_after, -1]])),
        sum(_params_m(module) for module in fusing),
    )
    # interactions come between blocks and cannot be run alone: they are the rest
    gflops, params_m = (whole - sum(part[k] for part in [*parts.values(), merge]) for k, whole in enumerate(total))
    return {**parts, "interactions": (gflops, params_m), "merge": merge}


def _gmacs(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2 / 1e9


def _params_m(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6
