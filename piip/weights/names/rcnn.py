"""mmdetection's names of two-stage detectors' tensors, and its rows of classes.

Its layout differs in two ways: the background is its last class and our first, and its boxes and masks leave it out where ours have an
unused row for it.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from piip.spec import CascadeSpec, TwoStageSpec

# ours, official; \1 is a number, \2 (a stage and a dot) empty but in a cascade
_STAGE = r"head\.roi_heads\.(?:stages\.(?P<stage>\d+)\.)?"
_NAMES = [
    (r"head\.neck\.inner_blocks\.(\d+)\.0", r"neck.lateral_convs.\1.conv"),
    (r"head\.neck\.layer_blocks\.(\d+)\.0", r"neck.fpn_convs.\1.conv"),
    (r"head\.rpn\.head\.conv\.0\.0", "rpn_head.rpn_conv"),
    (r"head\.rpn\.head\.cls_logits", "rpn_head.rpn_cls"),
    (r"head\.rpn\.head\.bbox_pred", "rpn_head.rpn_reg"),
]
_OF_A_STAGE = [
    (r"box_head\.fc6", "bbox_head.", "shared_fcs.0"),
    (r"box_head\.fc7", "bbox_head.", "shared_fcs.1"),
    (r"box_head\.(\d+)\.0", "bbox_head.", r"shared_convs.\1.conv"),
    (r"box_head\.(\d+)\.1", "bbox_head.", r"shared_convs.\1.bn"),
    (r"box_head\.\d+", "bbox_head.", "shared_fcs.0"),  # behind convolutions
    (r"box_predictor\.cls_score", "bbox_head.", "fc_cls"),
    (r"box_predictor\.bbox_pred", "bbox_head.", "fc_reg"),
    (r"mask_head\.(\d+)\.0", "mask_head.", r"convs.\1.conv"),
    (r"mask_predictor\.conv5_mask", "mask_head.", "upsample"),
    (r"mask_predictor\.mask_fcn_logits", "mask_head.", "conv_logits"),
]
_LEAF = r"\.(?P<leaf>weight|bias|running_mean|running_var|num_batches_tracked)"
_ROWS = re.compile(
    r"roi_head\.(?:bbox|mask)_head\.(?:\d+\.)?(fc_cls|fc_reg|conv_logits)\."
    r"|roi_heads\.(?:box_predictor|mask_head)\.(cls_score|bbox_pred|predictor)\."
)
_KINDS = {"cls_score": "fc_cls", "bbox_pred": "fc_reg", "predictor": "conv_logits"}
"""detectron2's words for them: its background is the last class, too."""
PER_CLASS = re.compile(
    _ROWS.pattern + r"|head\.roi_heads\.(?:stages\.\d+\.)?(?:box_predictor|mask_predictor\.mask_fcn_logits)\."
)
"""How names begin of tensors with a row per class, mmdetection's, detectron2's and ours."""


def official_name(name: str) -> str:
    """The name of a tensor of our head, its running statistics included.

    `head.roi_heads.stages.1.box_predictor.cls_score.weight` -> `roi_head.bbox_head.1.fc_cls.weight`.

    Raises:
        ValueError: It is none.
    """
    for ours, official in _NAMES:
        if found := re.fullmatch(ours + _LEAF, name):
            return f"{found.expand(official)}.{found['leaf']}"
    if inside := re.match(_STAGE, name):
        stage = f"{inside['stage']}." if inside["stage"] else ""
        for ours, part, official in _OF_A_STAGE:
            if found := re.fullmatch(ours + _LEAF, name[inside.end() :]):
                return f"roi_head.{part}{stage}{found.expand(official)}.{found['leaf']}"
    raise ValueError(f"{name!r} is no tensor of a two-stage detector")


def in_order(tensors: Mapping[str, Tensor], order: Sequence[int], spec: TwoStageSpec) -> dict[str, Tensor]:
    """Official tensors with the rows of classes in another order: place -> where its class is in the file."""
    changed = dict(tensors)
    for name, value, kind in _rows(tensors, spec):
        if kind == "fc_cls":
            changed[name] = value[[*order, len(order)]]
        elif kind == "fc_reg":
            changed[name] = value.unflatten(0, (-1, 4))[order].flatten(0, 1)
        else:
            changed[name] = value[order]
    return changed


def background_first(tensors: Mapping[str, Tensor], spec: TwoStageSpec) -> dict[str, Tensor]:
    """Official tensors in our layout."""
    changed = dict(tensors)
    for name, value, kind in _rows(tensors, spec):
        if kind == "fc_cls":
            changed[name] = torch.cat([value[-1:], value[:-1]])
        else:
            changed[name] = torch.cat([torch.zeros_like(value[: 4 if kind == "fc_reg" else 1]), value])
    return changed


def _rows(tensors: Mapping[str, Tensor], spec: TwoStageSpec) -> list[tuple[str, Tensor, str]]:
    """Name, value and kind of the official tensors with a row per class; boxes that are all classes' have none."""
    shared = isinstance(spec, CascadeSpec) and spec.class_agnostic
    found = [(name, value, _ROWS.match(name)) for name, value in tensors.items()]
    kinds = [(name, value, match[1] or _KINDS[match[2]]) for name, value, match in found if match]
    return [(name, value, kind) for name, value, kind in kinds if not (shared and kind == "fc_reg")]
