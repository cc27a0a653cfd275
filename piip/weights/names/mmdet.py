"""Released weights into our models: the official code's names, class order and shapes for backbone, neck and heads.

Backbones go by piip/weights/names/piip.py, a DINO by dino.py, an UperNet by mmseg.py. Of mmdet's Mask R-CNN the layout differs in two
ways: the background is mmdet's last class and our first, and mmdet's boxes and masks leave it out where ours have an unused row for it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from piip.spec import DINOSpec, ModelSpec, PIIPSpec
from piip.weights.fit import Report, fit
from piip.weights.names import dino, mmseg
from piip.weights.names.piip import left_out, to_official
from piip.weights.read import Weights, WeightsError
from piip.weights.resizing import adapt

# ours, official; \1 is a number
_MASK_RCNN = [
    (r"head\.neck\.inner_blocks\.(\d+)\.0", r"neck.lateral_convs.\1.conv"),
    (r"head\.neck\.layer_blocks\.(\d+)\.0", r"neck.fpn_convs.\1.conv"),
    (r"head\.rpn\.head\.conv\.0\.0", "rpn_head.rpn_conv"),
    (r"head\.rpn\.head\.cls_logits", "rpn_head.rpn_cls"),
    (r"head\.rpn\.head\.bbox_pred", "rpn_head.rpn_reg"),
    (r"head\.roi_heads\.box_head\.fc6", "roi_head.bbox_head.shared_fcs.0"),
    (r"head\.roi_heads\.box_head\.fc7", "roi_head.bbox_head.shared_fcs.1"),
    (r"head\.roi_heads\.box_predictor\.cls_score", "roi_head.bbox_head.fc_cls"),
    (r"head\.roi_heads\.box_predictor\.bbox_pred", "roi_head.bbox_head.fc_reg"),
    (r"head\.roi_heads\.mask_head\.(\d+)\.0", r"roi_head.mask_head.convs.\1.conv"),
    (r"head\.roi_heads\.mask_predictor\.conv5_mask", "roi_head.mask_head.upsample"),
    (r"head\.roi_heads\.mask_predictor\.mask_fcn_logits", "roi_head.mask_head.conv_logits"),
]
_LOGITS, _BOXES, _MASKS = "roi_head.bbox_head.fc_cls.", "roi_head.bbox_head.fc_reg.", "roi_head.mask_head.conv_logits."
_PER_CLASS = (
    _LOGITS, _BOXES, _MASKS, *mmseg.PER_CLASS, *dino.PER_CLASS,
    "head.roi_heads.box_predictor.", "head.roi_heads.mask_predictor.mask_fcn_logits.",
)  # fmt: skip
"""Tensors with a row per class, the official code's and ours."""
_CLASSIFIER = re.compile(r"(branch\d+\.head|cls_head|head\.own\.\d+\.head|head\.merged\.head|head\.head)\.")
"""The same of classifiers."""


def official_name(name: str, spec: ModelSpec) -> str:
    """The official file's name of a parameter of our model.

    Raises:
        ValueError: There is no such parameter.
    """
    assert isinstance(spec.backbone, PIIPSpec)
    if spec.head.kind == "classifier":  # the official one is all backbone
        return to_official(in_backbone(name), spec.backbone)
    if name.startswith("backbone."):
        return "backbone." + to_official(name.removeprefix("backbone."), spec.backbone)
    if spec.head.kind == "upernet":
        return mmseg.official_name(name)
    if isinstance(spec.head, DINOSpec):
        return dino.official_name(name, spec.head)
    for ours, official in _MASK_RCNN:
        if found := re.fullmatch(rf"{ours}\.(weight|bias)", name):
            return f"{found.expand(official)}.{found.groups()[-1]}"
    raise ValueError(f"{name!r} is no parameter of an official network")


def in_backbone(name: str) -> str:
    """Where a classifier's parameter is in a network that is all backbone: separate heads sit in the branches."""
    if own := re.fullmatch(r"head\.own\.(\d+)\.(.+)", name):
        return f"branches.{own[1]}.{own[2]}"
    return name.replace("head.merged.", "merged_head.", 1).removeprefix("backbone.")


def fit_weights(
    weights: Weights, model: nn.Module, spec: ModelSpec, classes: Sequence[str] = ()
) -> tuple[dict[str, Tensor], Report]:
    """A file's tensors, under the official code's names or our own, as the state dict of `model`, and what became of each.

    Args:
        weights: As read.
        model: What `spec` builds; may be on the meta device.
        spec: The model's.
        classes: Names of the data's classes in order of label; where the file names its own, its rows are put in this order.

    Raises:
        WeightsError: The file's classes are others, or a tensor is not finite.
        ValueError: Official names, and `spec` is no PIIP.
    """
    wanted = model.state_dict()
    if len(wanted.keys() & weights.tensors.keys()) > len(wanted) // 2:
        _same_classes(weights, classes)
        return fit(weights.tensors, wanted, origin=weights.origin, adapt=adapt)
    backbone = spec.backbone
    if not isinstance(backbone, PIIPSpec):
        raise ValueError(
            f"{weights.origin} has none of this network's names, and official files are of PIIP; this is a {backbone.kind}"
        )

    def why_not(name: str) -> str | None:
        return left_out(name.removeprefix("backbone."), backbone, spec.head.wants)

    tensors = dino.split(_background_first(_in_order(weights, classes)))
    return fit(
        tensors,
        wanted,
        origin=weights.origin,
        name_of=lambda name: official_name(name, spec),
        adapt=adapt,
        anew={name: "a count that nothing reads" for name in wanted if name.endswith("num_batches_tracked")},
        why_not=why_not,
    )


def without_classes(weights: Weights) -> Weights:
    """All but the tensors that have a row per class: what is left to learn other classes from."""
    kept = {n: v for n, v in weights.tensors.items() if not n.startswith(_PER_CLASS) and not _CLASSIFIER.match(n)}
    return replace(weights, tensors=kept, classes=())


def _same_classes(weights: Weights, classes: Sequence[str]) -> None:
    if weights.classes and classes and list(weights.classes) != list(classes):
        known = [*classes, *weights.classes]
        odd = next((name for name in known if name not in weights.classes or name not in classes), "their order")
        raise WeightsError(
            f"{weights.origin} knows {len(weights.classes)} classes, the data has {len(classes)}; first difference: {odd}"
        )


def _in_order(weights: Weights, classes: Sequence[str]) -> dict[str, Tensor]:
    """Rows of the classes in the data's order, by name."""
    if not weights.classes or not classes or list(weights.classes) == list(classes):
        return dict(weights.tensors)
    if set(weights.classes) != set(classes):
        _same_classes(weights, classes)
    order = [weights.classes.index(name) for name in classes]
    tensors = dict(weights.tensors)
    for name, value in weights.tensors.items():
        if name.startswith(_LOGITS):
            tensors[name] = value[[*order, len(order)]]
        elif name.startswith(_BOXES):
            tensors[name] = value.unflatten(0, (-1, 4))[order].flatten(0, 1)
        elif name.startswith((_MASKS, *mmseg.PER_CLASS, *dino.PER_CLASS)):
            tensors[name] = value[order]
    return tensors


def _background_first(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    changed = dict(tensors)
    for name, value in tensors.items():
        if name.startswith(_LOGITS):
            changed[name] = torch.cat([value[-1:], value[:-1]])
        elif name.startswith(_BOXES):
            changed[name] = torch.cat([torch.zeros_like(value[:4]), value])
        elif name.startswith(_MASKS):
            changed[name] = torch.cat([torch.zeros_like(value[:1]), value])
    return changed
