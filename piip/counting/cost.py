"""What a model costs: parameters, and multiply-adds of the real network on a real input size."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from piip.counting.costs import Cost
from piip.counting.meta import on_meta
from piip.models import build_model
from piip.models.backbones.piip import PIIP
from piip.models.speed import switch_network
from piip.spec import ModelSpec, SpeedSpec


def cost(spec: ModelSpec, height: int, width: int) -> Cost:
    """Counts on the meta device: no memory, no arithmetic, a second, and nothing of this process is changed.

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
        switch_network(model, SpeedSpec(windows="padded"))
        parts, features = _backbone_parts(model.backbone, torch.empty(1, 3, height, width))
        of_head = _head_parts(model.head, features)
    parts |= of_head
    gflops, params_m = (sum(part[k] for part in parts.values()) for k in (0, 1))
    return Cost(gflops, params_m, parts, frozenset(of_head))


def _head_parts(head: Any, features: Any) -> dict[str, tuple[float, float]]:
    """Counts of the head's probe, part by part; a part's parameters are those under its name, or all of a head of one part."""
    probe = head.probe(features)
    inside = [name for name, _ in head.named_children()]
    strange = [name for name in probe if len(probe) > 1 and name not in inside]
    assert not strange, f"{type(head).__name__}.probe names {strange}, which are no submodules: {inside}"
    params = {name: _params_m(getattr(head, name) if len(probe) > 1 else head) for name in probe}
    assert abs(sum(params.values()) - _params_m(head)) < 1e-9, (
        f"{type(head).__name__}.probe leaves parameters out: {params}"
    )
    return {name: (_gmacs(call), params[name]) for name, call in probe.items()}


def _backbone_parts(backbone: Any, images: Tensor) -> tuple[dict[str, tuple[float, float]], Any]:
    """Counts of one forward pass, by the parts that `Cost.parts` names, and what the pass gives."""
    with FlopCounterMode(display=False) as counter:
        out = backbone(images)
    root = type(backbone).__name__
    counted = {name.removeprefix(f"{root}."): sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    for name in ("Global", root):
        counted.pop(name, None)
    gflops, params_m = defaultdict[str, float](float), defaultdict[str, float](float)
    for name, flops in counted.items():
        # a module's count includes the modules inside it
        words = name.split(".")
        if not any(".".join(words[:n]) in counted for n in range(1, len(words))):
            gflops[backbone.part_of(name)] += flops / 2 / 1e9
    for name, parameter in backbone.named_parameters():
        params_m[backbone.part_of(name)] += parameter.numel() / 1e6
    total = counter.get_total_flops() / 2 / 1e9
    if sum(gflops.values()) < total * (1 - 1e-9):
        # attention that is padded after qkv is a function, no module: count these branches alone
        assert isinstance(backbone, PIIP)
        for i, (branch, image) in enumerate(zip(backbone.branches, backbone.image_pyramid(images), strict=True)):
            gflops[f"branches.{i}"] = _gmacs(lambda branch=branch, image=image: branch(image))
    assert abs(sum(gflops.values()) - total) <= 1e-6 * total, f"{gflops} do not sum to {total}"
    return {part: (gflops[part], params_m[part]) for part in sorted(params_m, key=_order)}, out


def _order(part: str) -> tuple[int, str]:
    kinds = ("branches", "backbone", "interactions", "merge")
    return kinds.index(part.split(".")[0]), part


def _gmacs(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2 / 1e9


def _params_m(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6
