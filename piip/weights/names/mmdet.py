"""Released weights into our models: the official code's names, class order and shapes for backbone, neck and heads.

Backbones go by piip/weights/names/piip.py (InternImage's names are the official ones), heads by rcnn.py, dino.py and mmseg.py; MPViT, all
of it, by detectron2.py, a ResNet and its detectors by Detectron's names, detectron.py.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from piip.spec import DINOSpec, Head, InternImageForm, ModelSpec, MPViTSpec, PIIPSpec, TwoStageSpec
from piip.weights.fit import Report, fit
from piip.weights.names import detectron, detectron2, dino, mmseg, rcnn
from piip.weights.names.piip import left_out, to_official
from piip.weights.read import Weights, WeightsError
from piip.weights.resizing import adapt

_CLASSIFIER = re.compile(r"(branch\d+\.head|cls_head|head\.own\.\d+\.head|head\.merged\.head|head\.head)\.")
"""How names begin of classifiers' tensors with a row per class, the official code's and ours; others' are in the files beside this one."""
_OFFICIAL_HEADS = ("neck.", "rpn_head.", "roi_head.", "bbox_head.", "decode_head.")


def official_name(name: str, spec: ModelSpec) -> str:
    """The official file's name of a parameter of our model.

    Raises:
        ValueError: There is no such parameter.
    """
    backbone = spec.backbone
    if spec.head.kind == "classifier" and isinstance(backbone, PIIPSpec):  # the official one is all backbone
        return to_official(in_backbone(name), backbone)
    if name.startswith("backbone."):
        return f"backbone.{to_official(name[9:], backbone)}" if isinstance(backbone, PIIPSpec) else name
    if spec.head.kind == "upernet":
        return mmseg.official_name(name)
    if isinstance(spec.head, DINOSpec):
        return dino.official_name(name, spec.head)
    if isinstance(spec.head, TwoStageSpec):
        return rcnn.official_name(name)
    return name  # of a RetinaNet, or a classifier on a map, there are no official files: it starts anew beside their backbones


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
        ValueError: Official names, and there are no official files of what `spec` is.
    """
    wanted = model.state_dict()
    if _has_our_names(weights.tensors, wanted):
        _same_classes(weights, classes)
        return fit(weights.tensors, wanted, origin=weights.origin, adapt=adapt)
    if detectron.is_detectrons(weights.tensors):
        return detectron.fit_detector(weights, wanted, spec)
    backbone, head = spec.backbone, spec.head
    if isinstance(backbone, MPViTSpec):
        return detectron2.fit_mpvit(weights, wanted, spec)
    if not isinstance(backbone, PIIPSpec | InternImageForm):
        raise ValueError(
            f"{weights.origin} has none of this network's names, and official files are of PIIP, InternImage and MPViT; "
            f"this is a {backbone.kind}"
        )

    def why_not(name: str) -> str | None:
        return (
            left_out(name.removeprefix("backbone."), backbone, head.wants) if isinstance(backbone, PIIPSpec) else None
        )

    tensors = _in_order(weights, classes, head)
    if isinstance(head, TwoStageSpec):
        tensors = rcnn.background_first(tensors, head)
    elif isinstance(head, DINOSpec):
        tensors = dino.split(tensors)
    return fit(
        tensors,
        wanted,
        origin=weights.origin,
        name_of=lambda name: official_name(name, spec),
        adapt=adapt,
        anew={name: "a count that nothing reads" for name in wanted if name.endswith("num_batches_tracked")},
        why_not=why_not,
    )


def _has_our_names(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Whether a file is a checkpoint of ours. InternImage's names are the official ones: its detectors' heads tell."""
    official = any(name.startswith(_OFFICIAL_HEADS) for name in tensors)
    return len(wanted.keys() & tensors.keys()) > len(wanted) // 2 and not official


def without_classes(weights: Weights) -> Weights:
    """All but the tensors that have a row per class: what is left to learn other classes from."""
    kept = {
        name: value
        for name, value in weights.tensors.items()
        if not (
            name.startswith((*mmseg.PER_CLASS, *dino.PER_CLASS))
            or _CLASSIFIER.match(name)
            or rcnn.PER_CLASS.match(name)
        )
    }
    return replace(weights, tensors=kept, classes=())


def _same_classes(weights: Weights, classes: Sequence[str]) -> None:
    if weights.classes and classes and list(weights.classes) != list(classes):
        known = [*classes, *weights.classes]
        odd = next((name for name in known if name not in weights.classes or name not in classes), "their order")
        raise WeightsError(
            f"{weights.origin} knows {len(weights.classes)} classes, the data has {len(classes)}; first difference: {odd}"
        )


def _in_order(weights: Weights, classes: Sequence[str], head: Head) -> dict[str, Tensor]:
    """Rows of the classes in the data's order, by name."""
    if not weights.classes or not classes or list(weights.classes) == list(classes):
        return dict(weights.tensors)
    if set(weights.classes) != set(classes):
        _same_classes(weights, classes)
    order = [weights.classes.index(name) for name in classes]
    tensors = dict(weights.tensors)
    if isinstance(head, TwoStageSpec):
        return rcnn.in_order(tensors, order, head)
    for name, value in tensors.items():
        if name.startswith((*mmseg.PER_CLASS, *dino.PER_CLASS)):
            tensors[name] = value[order]
    return tensors
