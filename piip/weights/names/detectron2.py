"""detectron2's names of two-stage detectors' and RetinaNet's tensors, and files of MPViT, whose detectors are made with it."""

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from piip.contracts import Maps
from piip.spec import ClassifierSpec, Head, ModelSpec, MPViTSpec, RetinaNetSpec, TwoStageSpec
from piip.weights.fit import Report, fit
from piip.weights.names import mpvit, rcnn
from piip.weights.read import Weights

_BODY = "backbone.bottom_up.backbone."
"""What stands before a body's names in a detector."""
# ours, theirs; \1 is a number: @ the level of a map (2 at stride 4), + one more, * twice it
_NECK = [
    (r"neck\.inner_blocks\.(\d)\.0", r"backbone.fpn_lateral@\1"),
    (r"neck\.layer_blocks\.(\d)\.0", r"backbone.fpn_output@\1"),
    (r"neck\.extra_blocks\.(p\d)", r"backbone.top_block.\1"),
]
_TWO_STAGE = [
    *_NECK,
    (r"rpn\.head\.conv\.0\.0", "proposal_generator.rpn_head.conv"),
    (r"rpn\.head\.cls_logits", "proposal_generator.rpn_head.objectness_logits"),
    (r"rpn\.head\.bbox_pred", "proposal_generator.rpn_head.anchor_deltas"),
    (r"roi_heads\.box_head\.fc6", "roi_heads.box_head.fc1"),
    (r"roi_heads\.box_head\.fc7", "roi_heads.box_head.fc2"),
    (r"roi_heads\.box_predictor\.(cls_score|bbox_pred)", r"roi_heads.box_predictor.\1"),
    (r"roi_heads\.mask_head\.(\d)\.0", r"roi_heads.mask_head.mask_fcn+\1"),
    (r"roi_heads\.mask_predictor\.conv5_mask", "roi_heads.mask_head.deconv"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits", "roi_heads.mask_head.predictor"),
]
_RETINANET = [
    *_NECK,
    (r"head\.classification_head\.conv\.(\d)\.0", r"head.cls_subnet.*\1"),
    (r"head\.regression_head\.conv\.(\d)\.0", r"head.bbox_subnet.*\1"),
    (r"head\.classification_head\.cls_logits", "head.cls_score"),
    (r"head\.regression_head\.bbox_reg", "head.bbox_pred"),
]
_UNUSED = [
    (r"(proposal_generator\.)?anchor_generator\..+|pixel_(mean|std)", "computed, not learned"),
    (r".*cls_head\..+", "ImageNet's classifier"),
]


def official_name(name: str, head: Head) -> str | None:
    """detectron2's name of a tensor of our head; None where it has none.

    `head.neck.inner_blocks.0.0.bias` -> `backbone.fpn_lateral2.bias`, or `..3.bias` of a RetinaNet, whose first map is at stride 8.
    """
    owner, _, leaf = name.removeprefix("head.").rpartition(".")
    places = _TWO_STAGE if isinstance(head, TwoStageSpec) else _RETINANET if isinstance(head, RetinaNetSpec) else []
    for ours, theirs in places:
        if found := re.fullmatch(ours, owner):
            return f"{_counted(found.expand(theirs), head)}.{leaf}"
    return None


def _counted(name: str, head: Head) -> str:
    """A name of the tables above, its signs read."""
    assert isinstance(head.wants, Maps)
    levels = [stride.bit_length() - 1 for stride in head.wants.strides]
    name = re.sub(r"@(\d)", lambda n: str(levels[int(n[1])]), name)
    name = re.sub(r"\+(\d)", lambda n: str(int(n[1]) + 1), name)
    return re.sub(r"\*(\d)", lambda n: str(2 * int(n[1])), name)


def fit_mpvit(weights: Weights, wanted: Mapping[str, Tensor], spec: ModelSpec) -> tuple[dict[str, Tensor], Report]:
    """A file of MPViT, of ImageNet's pretraining or of a detector, as the state dict of a model, and what became of each tensor.

    Raises:
        WeightsError: It is none, its MLPs are of another width, or layers do not share what they should.
    """
    backbone, head = spec.backbone, spec.head
    assert isinstance(backbone, MPViTSpec)
    tensors = mpvit.without_aliases(weights.tensors)
    mpvit.same_mlp_ratio(tensors, backbone)
    before = mpvit.prefix_of(tensors)
    outside = before.removesuffix(_BODY) if before.endswith(_BODY) else ""
    tensors = {name.removeprefix(outside): value for name, value in tensors.items()}
    body = before.removeprefix(outside)
    if isinstance(head, TwoStageSpec):
        tensors = rcnn.background_first(tensors, head)

    def name_of(name: str) -> str:
        if name.startswith("backbone."):
            return body + mpvit.official_name(name.removeprefix("backbone."))
        if isinstance(head, ClassifierSpec):
            return name.replace("head.head.", f"{body}cls_head.cls.", 1)
        return official_name(name, head) or name

    counts = {name: "a count that training begins anew" for name in wanted if _is_count(name)}
    return fit(tensors, wanted, origin=weights.origin, name_of=name_of, anew=counts, why_not=why_unused)


def _is_count(name: str) -> bool:
    return name.endswith("num_batches_tracked") or name == "head.normaliser"


def why_unused(name: str) -> str | None:
    """Why nothing here reads a tensor of such a file; None where that is not known."""
    return next((why for pattern, why in _UNUSED if re.fullmatch(pattern, name)), None)


def as_in_file(weights: Weights, spec: ModelSpec) -> tuple[Weights, ModelSpec]:
    """The network that a file is of, where the file tells more than its row: an MPViT's MLP ratio; and a note of that."""
    backbone = spec.backbone
    if not isinstance(backbone, MPViTSpec) or not any("mhca_stages." in name for name in weights.tensors):
        return weights, spec
    ratio = mpvit.mlp_ratio_of(weights.tensors)
    if ratio == backbone.mlp_ratio:
        return weights, spec
    note = f"model.backbone.mlp_ratio is {ratio:g}, as in the file; {backbone.mlp_ratio:g} in the row"
    return replace(weights, notes=[*weights.notes, note]), spec.override({"backbone.mlp_ratio": ratio})
