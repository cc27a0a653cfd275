"""What a model costs: parameters, and multiply-adds of the real network on a real input size."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from piip.counting.meta import on_meta
from piip.models import Headless, build_model
from piip.models.backbones.piip import PIIP
from piip.models.heads.boxes import BOX_POOL, MASK_POOL
from piip.models.heads.rcnn import MaskRCNN
from piip.models.speed import set_speed
from piip.spec import MaskRCNNSpec, ModelSpec, SpeedSpec

HEADS = ("neck", "rpn", "roi_heads", "head")


@dataclass(frozen=True)
class Cost:
    """Compute of one image and size of the network."""

    gflops: float
    """1e9 multiply-adds (MAC = 1, as the papers count): backbone, neck, proposals and heads."""
    params_m: float
    """Million parameters."""
    parts: dict[str, tuple[float, float]]
    """Name -> (gflops, params_m); sums to the whole. PIIP: `branches.0` .. `branches.N-1`, `interactions`, `merge` (with the
    pyramid of maps); a CNN: `backbone`. Then `neck`, `rpn`, `roi_heads` of Mask R-CNN, or `head` of a classifier."""
    whole: bool = True
    """False: the head does not exist yet, only the backbone is counted."""

    @property
    def backbone_gflops(self) -> float:
        """Without neck, proposals and heads."""
        return sum(gflops for name, (gflops, _) in self.parts.items() if name not in HEADS)

    @property
    def backbone_params_m(self) -> float:
        """Without neck, proposals and heads."""
        return sum(params for name, (_, params) in self.parts.items() if name not in HEADS)


def cost(spec: ModelSpec, height: int, width: int) -> Cost:
    """Counts on the meta device: no memory, no arithmetic, a second.

    Matrix products, convolutions, attention (with the padding of its windows, as published, though exact windows save it) and
    deformable sampling count; norms, activations and resizing do not. The box head counts `rpn_post_nms` boxes and the mask head
    `max_detections` masks, the most an image can have; proposals' NMS and RoIAlign do not count.

    Args:
        spec: The model.
        height: Of the padded input in pixels.
        width: Of the padded input in pixels.
    """
    with on_meta(), torch.no_grad():
        model = build_model(spec, pretrained=False).eval()
        set_speed(model, SpeedSpec(windows="padded"))
        images = torch.empty(1, 3, height, width)
        if isinstance(model, MaskRCNN):
            assert isinstance(spec.head, MaskRCNNSpec)
            parts = _rcnn_parts(model, spec.head, images)
        else:
            parts = _by_part(model, images)[0]
    gflops, params_m = (sum(part[k] for part in parts.values()) for k in (0, 1))
    return Cost(gflops, params_m, parts, whole=not isinstance(model, Headless))


def _rcnn_parts(model: MaskRCNN, spec: MaskRCNNSpec, images: Tensor) -> dict[str, tuple[float, float]]:
    parts, maps = _by_part(model.backbone, images)
    features = list(model.pyramid(maps).values())
    roi = model.roi_heads
    boxes = torch.empty(spec.rpn_post_nms, spec.fpn_channels, BOX_POOL, BOX_POOL)
    masks = torch.empty(spec.max_detections, spec.fpn_channels, MASK_POOL, MASK_POOL)

    def heads() -> None:
        roi.box_predictor(roi.box_head(boxes))
        roi.mask_predictor(roi.mask_head(masks))

    parts["neck"] = _gmacs(lambda: model.pyramid(maps)), _params_m(model.neck)
    parts["rpn"] = _gmacs(lambda: model.rpn.head(features)), _params_m(model.rpn)
    parts["roi_heads"] = _gmacs(heads), _params_m(roi)
    return parts


def _by_part(model: nn.Module, images: Tensor) -> tuple[dict[str, tuple[float, float]], list[Tensor]]:
    """Counts of one forward pass, by the parts that `Cost.parts` names, and what the pass gives."""
    with FlopCounterMode(display=False) as counter:
        out = model(images)
    root = type(model).__name__
    counted = {name.removeprefix(f"{root}."): sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    for name in ("Global", root, "backbone"):
        counted.pop(name, None)
    gflops, params_m = defaultdict[str, float](float), defaultdict[str, float](float)
    for name, flops in counted.items():
        # a module's count includes the modules inside it
        words = name.split(".")
        if not any(".".join(words[:n]) in counted for n in range(1, len(words))):
            gflops[_part(name)] += flops / 2 / 1e9
    for name, parameter in model.named_parameters():
        params_m[_part(name)] += parameter.numel() / 1e6
    total = counter.get_total_flops() / 2 / 1e9
    if sum(gflops.values()) < total * (1 - 1e-9):
        # attention that is padded after qkv is a function, no module: count these branches alone
        piip = model if isinstance(model, PIIP) else model.backbone
        assert isinstance(piip, PIIP)
        for i, (branch, image) in enumerate(zip(piip.branches, piip.image_pyramid(images), strict=True)):
            gflops[f"branches.{i}"] = _gmacs(lambda branch=branch, image=image: branch(image))
    assert abs(sum(gflops.values()) - total) <= 1e-6 * total, f"{gflops} do not sum to {total}"
    return {part: (gflops[part], params_m[part]) for part in sorted(params_m, key=_order)}, out


def _part(name: str) -> str:
    """The part a module or parameter belongs to."""
    match name.removeprefix("backbone.").split("."):
        case ["branches", i, *_]:
            return f"branches.{i}"
        case ["interactions", *_]:
            return "interactions"
        case ["merge" | "merges" | "pyramid", *_]:
            return "merge"
        case ["merged_head", *_]:
            return "head"
        case _:
            return "backbone"


def _order(part: str) -> tuple[int, str]:
    kinds = ("branches", "backbone", "interactions", "merge", "head")
    return kinds.index(part.split(".")[0]), part


def _gmacs(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2 / 1e9


def _params_m(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6
