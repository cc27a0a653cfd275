"""Detectron's names of a ResNet's and a two-stage detector's tensors (its "blobs"), and what of its files nothing here reads."""

import re
from collections.abc import Mapping

from torch import Tensor

from piip.spec import BottleneckSpec, FasterRCNNSpec, KeypointRCNNSpec, MaskRCNNSpec, ModelSpec, ResNetSpec
from piip.weights.fit import Report, fit
from piip.weights.read import Weights, WeightsError

STEM = "conv1_w"
"""The tensor that every file of Detectron's has."""
# ours, theirs; \1 is a number
_BODY = [
    (r"conv1", "conv1"),
    (r"norm1", "conv1{norm}"),
    (r"levels\.res(\d)\.(\d+)\.downsample\.0", r"res\1_\2_branch1"),
    (r"levels\.res(\d)\.(\d+)\.downsample\.1", r"res\1_\2_branch1{norm}"),
    (r"levels\.res(\d)\.(\d+)\.conv(\d)", r"res\1_\2_branch2#\3"),
    (r"levels\.res(\d)\.(\d+)\.bn(\d)", r"res\1_\2_branch2#\3{norm}"),
]
_HEAD = [
    (r"neck\.inner_blocks\.(\d)\.0", r"fpn_inner_@\1{lateral}"),
    (r"neck\.inner_blocks\.(\d)\.1", r"fpn_inner_@\1{lateral}_gn"),
    (r"neck\.layer_blocks\.(\d)\.0", r"fpn_@\1"),
    (r"neck\.layer_blocks\.(\d)\.1", r"fpn_@\1_gn"),
    (r"rpn\.head\.conv\.0\.0", "conv_rpn{level}"),
    (r"rpn\.head\.(cls_logits|bbox_pred)", r"rpn_\1{level}"),
    (r"roi_heads\.box_head\.(fc6|fc7)", r"\1"),
    (r"roi_heads\.box_head\.(\d+)\.0", r"head_conv+\1"),
    (r"roi_heads\.box_head\.(\d+)\.1", r"head_conv+\1_gn"),
    (r"roi_heads\.box_head\.\d+", "fc6"),  # behind convolutions
    (r"roi_heads\.box_predictor\.(cls_score|bbox_pred)", r"\1"),
    (r"roi_heads\.mask_head\.(\d+)\.0", r"{mask}_fcn+\1"),
    (r"roi_heads\.mask_head\.(\d+)\.1", r"{mask}_fcn+\1_gn"),
    (r"roi_heads\.mask_predictor\.(conv5_mask|mask_fcn_logits)", r"\1"),
    (r"roi_heads\.keypoint_predictor\.(kps_score_lowres)", r"\1"),
]
_UNUSED = [
    (r".+_momentum", "the optimizer's"),
    (
        r"(conv1|res\d_\d+_branch(1|2[abc]))_b",
        "a convolution's bias, of which the norm behind it leaves nothing to learn",
    ),
    (r"(fc1000|pred)_[wb]", "ImageNet's classifier"),
]
_STEM = re.compile(r"conv1_|res_conv1_")
Detector = FasterRCNNSpec | MaskRCNNSpec | KeypointRCNNSpec


def blob_of(name: str, body: BottleneckSpec, head: Detector | None = None) -> str | None:
    """Detectron's name of one of our tensors; None where it has none.

    `backbone.levels.res4.0.conv1.weight` -> `res4_0_branch2a_w`; `head.neck.inner_blocks.2.0.bias` ->
    `fpn_inner_res4_5_sum_lateral_b`.

    Args:
        name: With `backbone.` or `head.` in front.
        body: The backbone's form.
        head: The head's, where the name is of it.
    """
    owner, _, leaf = name.rpartition(".")
    part, _, inside = owner.partition(".")
    if head and head.form.maps == "c4" and (res5 := re.fullmatch(r"roi_heads\.box_head\.0\.(.+)", inside)):
        part, inside = "backbone", f"levels.res5.{res5[1]}"
    if head and (conv := re.fullmatch(r"roi_heads\.keypoint_head\.(\d+)", inside)):
        return f"conv_fcn{int(conv[1]) // 2 + 1}{_ending(leaf)}"  # every other one is a ReLU
    for ours, theirs in _BODY if part == "backbone" else _HEAD:
        if found := re.fullmatch(ours, inside):
            return _filled(found.expand(theirs), body, head, leaf)
    return None


def _filled(pattern: str, body: BottleneckSpec, head: Detector | None, leaf: str) -> str:
    """A name of the tables above, its signs read: #1 is a, +0 is 1, @0 the output of res2's last block."""
    group = head is not None and head.form.norm == "group"
    words = {
        "{norm}": "_bn" if body.norm == "affine" else "_gn",
        "{level}": "_fpn2" if head and len(head.form.proposal_strides) > 1 else "",
        "{mask}": "_mask" if group else "_[mask]",
        "{lateral}": "" if "@3" in pattern else "_lateral",  # the coarsest map has nothing above it
    }
    for word, text in words.items():
        pattern = pattern.replace(word, text)
    pattern = re.sub(r"#(\d)", lambda n: "abc"[int(n[1]) - 1], pattern)
    pattern = re.sub(r"\+(\d+)", lambda n: str(int(n[1]) + 1), pattern)
    if isinstance(body, ResNetSpec):
        pattern = re.sub(r"@(\d)", lambda n: f"res{int(n[1]) + 2}_{body.depths[int(n[1])] - 1}_sum", pattern)
    if pattern == "conv1_bn":  # with a word in front that other norms, and GroupNorm here, go without
        pattern = "res_conv1_bn"
    return pattern + _ending(leaf, norm=pattern.endswith(("_bn", "_gn")))


def _ending(leaf: str, *, norm: bool = False) -> str:
    return "_b" if leaf == "bias" else "_s" if norm else "_w"


def why_unused(blob: str) -> str | None:
    """Why nothing here reads a tensor of Detectron's files; None where that is not known."""
    return next((why for pattern, why in _UNUSED if re.fullmatch(pattern, blob)), None)


def is_detectrons(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file is one of Detectron's."""
    return STEM in tensors


def in_rgb(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors with the stem's channels in our order: Detectron reads images blue first."""
    return {**tensors, STEM: tensors[STEM].flip(1)}


def fit_detector(weights: Weights, wanted: Mapping[str, Tensor], spec: ModelSpec) -> tuple[dict[str, Tensor], Report]:
    """A detector's file as the state dict of a model, and what became of each tensor.

    Raises:
        ValueError: The model is none of Detectron's.
    """
    body, head = spec.backbone, spec.head
    if not isinstance(body, ResNetSpec) or not isinstance(head, Detector):
        raise ValueError(
            f"{weights.origin} is Detectron's, of a ResNet (kind 'resnet') under Faster, Mask or Keypoint R-CNN; this is {head.kind} on "
            f"{body.kind}"
        )
    return fit(
        in_rgb(weights.tensors),
        wanted,
        origin=f"{weights.origin} ({_what(weights.tensors)})",
        name_of=lambda name: blob_of(name, body, head) or name,
        why_not=why_unused,
    )


def fit_body(weights: Weights, wanted: Mapping[str, Tensor], body: BottleneckSpec) -> tuple[dict[str, Tensor], Report]:
    """A file's ResNet, ImageNet's or a detector's, as the state dict of a backbone, or of some of its levels.

    Args:
        weights: As read.
        wanted: `conv1.weight`, `levels.res2.0.conv1.weight`, ..
        body: What its blocks are made of.

    Raises:
        WeightsError: It is no file of Detectron's.
    """
    if not is_detectrons(weights.tensors):
        raise WeightsError(
            f"{weights.origin} has no {STEM}: the pretraining of a ResNet here is Detectron's, such as R-50.pkl"
        )
    levels = {name.split(".")[1] for name in wanted if name.startswith("levels.")}

    def why_not(blob: str) -> str | None:
        if why := why_unused(blob):
            return why
        level = re.match(r"res\d", blob)
        if level is None:
            return (
                "of the stem, or of a detector's head"
                if "conv1.weight" not in wanted or not _STEM.match(blob)
                else None
            )
        return None if level[0] in levels else "of a level that is not built here"

    return fit(
        in_rgb(weights.tensors),
        wanted,
        origin=f"{weights.origin} ({_what(weights.tensors)})",
        name_of=lambda name: blob_of(f"backbone.{name}", body) or name,
        why_not=why_not,
    )


def _what(tensors: Mapping[str, Tensor]) -> str:
    """What a file is of, for messages: the two that are taken for one another, and detectors of other classes."""
    if "cls_score_w" in tensors:
        return f"a detector of {len(tensors['cls_score_w']) - 1} classes"
    return "a network of ImageNet's, which is given as model.backbone.weights"
