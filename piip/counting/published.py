"""#Param and #FLOPs as the PIIP papers print them: arithmetic, nothing is built.

What the official scripts count is not the network that is trained. `surrogate` follows classification/get_flops.py, behind every
printed figure of a ViT network: a classifier's merge stands for the detector's. `detector` follows mmdetection/get_flops_det.py,
behind the ConvNeXt rows: the real backbone up to its merges. Both see a square image of the largest resolution. One multiply-add is
one FLOP; GELU, softmax, RMSNorm, layer scale, residuals, resizing and the norms inside ConvNeXt are not counted.
"""

from dataclasses import dataclass
from itertools import cycle, islice, pairwise

from piip.counting import published_internimage, published_mpvit
from piip.counting.published_parts import Branch, ConvNeXt, Count, Stage, ViT, conv, linear, norm
from piip.presets import INTERNIMAGE
from piip.spec import (
    BranchSpec,
    CascadeSpec,
    ClassifierSpec,
    FasterRCNNSpec,
    InteractionSpec,
    InternImageSpec,
    MaskRCNNSpec,
    ModelSpec,
    MPViTSpec,
    PIIPSpec,
)

POINTS = 4
"""Sampling points per head: the official term for sampling has it written in."""

VITS = {
    "tiny": (192, 12),
    "small": (384, 12),
    "base": (768, 12),
    "large": (1024, 24),
    "huge": (1280, 32),
    "6b": (3200, 48),
}
"""Width and depth of the paper's Vision Transformers, by the word in their names."""

CONVNEXTS = {
    "tiny": ((96, 192, 384, 768), (3, 3, 9, 3)),
    "small": ((96, 192, 384, 768), (3, 3, 27, 3)),
    "base": ((128, 256, 512, 1024), (3, 3, 27, 3)),
}
"""Widths and depths of the four stages."""


@dataclass(frozen=True)
class Network:
    """Branches from the largest image to the smallest, as everywhere here."""

    branches: tuple[Branch, ...]
    interaction: InteractionSpec
    merge_after: tuple[int, ...] = ()
    """Interactions after which a regular FPN merges, besides the last one."""
    separate_heads: bool = False
    """A norm and a classifier for every branch, as the released classifiers; else branches are merged first."""
    num_classes: int = 1000


def published(spec: ModelSpec) -> Count | None:
    """What the papers' tables would print for a network; None for one their scripts cannot count.

    They know DeiT, InternViT and ConvNeXt branches of the paper's sizes; not BEiT, Uni-Perceiver, ResNet or our pico networks.
    InternImage's know its sizes in two-stage detectors (published_internimage.py), with neck and head at 800 x 1280;
    MPViT's know its own so (published_mpvit.py).
    """
    backbone, head = spec.backbone, spec.head
    if isinstance(backbone, InternImageSpec):
        known = backbone.channels in {size.channels for size in INTERNIMAGE.values()}
        if known and isinstance(head, FasterRCNNSpec | MaskRCNNSpec | CascadeSpec) and head.dialect == "mmdet":
            return published_internimage.detector(backbone, head)
        return None
    if isinstance(backbone, MPViTSpec):
        return published_mpvit.detector(spec)
    if not isinstance(backbone, PIIPSpec):
        size = _convnext(backbone.networks[0].arch, backbone.resolution)
        return detector(Network((size,), InteractionSpec(count=0))) if size else None
    if backbone.interaction.attention != "deformable":
        return None
    hybrid = any(branch.family == "convnext" for branch in backbone.branches)
    branches = [_branch(branch, real=hybrid) for branch in backbone.branches]
    if None in branches:
        return None
    found = tuple(branch for branch in branches if branch is not None)
    if isinstance(head, ClassifierSpec):
        return surrogate(
            Network(found, backbone.interaction, separate_heads=not head.merge, num_classes=head.num_classes)
        )
    return (detector if hybrid else surrogate)(Network(found, backbone.interaction, backbone.merge_after))


def _branch(spec: BranchSpec, *, real: bool) -> Branch | None:
    """What is counted of a branch: as in the detector (`real`), or as in the classifier that stands for it."""
    if spec.family == "convnext":
        return _convnext(spec.arch, spec.resolution)
    size = next((VITS[word] for word in spec.arch.split("_") if word in VITS), None)
    if size is None or spec.family not in ("deit", "internvit") or spec.arch.startswith("pico"):
        return None
    width, depth = size
    patch_size = spec.patch_size or 16
    of_6b, internvit = spec.arch.startswith("internvit_6b"), spec.family == "internvit"
    windows = spec.window if isinstance(spec.window, tuple) else (spec.window,)
    return ViT(
        spec.resolution, width, tuple(islice(cycle(windows), depth)), patch_size=patch_size,
        qkv_bias=not of_6b, rms_norm=of_6b, qk_norm=of_6b, layer_scale=not internvit or spec.layer_scale is not None,
        class_token=spec.class_token, class_position=internvit, pads_before_qkv=real or internvit,
        position_grid=_pretraining_side(spec.arch) // patch_size if real else None,
    )  # fmt: skip


def _pretraining_side(arch: str) -> int:
    """224 of `deit3_small_patch16_224.fb_in22k_ft_in1k`."""
    return int(arch.split(".")[0].rsplit("_", 1)[1])


def _convnext(arch: str, resolution: int) -> ConvNeXt | None:
    name = arch.split(".")[0]
    size = CONVNEXTS.get(name.removeprefix("convnext_")) if name.startswith("convnext_") else None
    return ConvNeXt(resolution, *size) if size else None


def surrogate(network: Network) -> Count:
    """The classifier that stands for a backbone of Vision Transformers in the published tables."""
    final = [branch.stages(1)[-1] for branch in network.branches]
    total = _bodies(network)
    if network.separate_heads or len(final) == 1:
        rms = [isinstance(branch, ViT) and branch.rms_norm for branch in network.branches]
        for stage, invisible in zip(final, rms, strict=True):
            total += Count(params=stage.width) if invisible else norm(stage.cells, stage.width)
            total += linear(1, stage.width, network.num_classes)
        return total
    high, low = final[0], final[-1]
    for stage in final[:-1]:
        total += norm(stage.cells, stage.width) + linear(stage.cells, stage.width, low.width)
        total += norm(stage.cells, low.width)
    total += norm(low.cells, low.width) + Count(params=len(final))  # the last branch's norm; one weight a branch
    return total + norm(high.cells, low.width) + linear(1, low.width, network.num_classes)


def detector(network: Network) -> Count:
    """The real detection backbone with a regular FPN up to its merged maps; upsampling has parameters but is not counted."""
    total = _bodies(network)
    if len(network.branches) == 1:
        return total
    stages = [branch.stages(network.interaction.count) for branch in network.branches]
    merges = [*network.merge_after, network.interaction.count - 1]
    widths = [stages[-1][i].width for i in merges]
    for i, width in zip(merges, widths, strict=True):
        for branch in stages[:-1]:
            total += conv(branch[i].cells, 3, branch[i].width, width, bias=False)
        for branch in stages:
            # GroupNorm, and ReLU at one FLOP an element
            total += norm(branch[i].cells, width) + Count(branch[i].cells * width, 1)
    if isinstance(network.branches[0], ViT):
        # its maps are all at stride 16: the first two are upsampled by transposed 2x2 convolutions
        twice, once = conv(0, 2, widths[0], widths[0]), conv(0, 2, widths[1], widths[1])
        total += twice * 2 + Count(params=2 * widths[0]) + once
    return total


def _bodies(network: Network) -> Count:
    """All branches and interactions."""
    total = sum((branch.count() for branch in network.branches), Count())
    count = network.interaction.count if len(network.branches) > 1 else 0
    stages = [branch.stages(count) for branch in network.branches]
    for high, low in pairwise(stages):
        for one, other in zip(high, low, strict=True):
            total += _injector(one, other, network.interaction) + _injector(other, one, network.interaction)
    return total


def _injector(query: Stage, feature: Stage, spec: InteractionSpec) -> Count:
    """One direction of a unit: `query` finds something in `feature`."""
    cells, width = query.cells, query.width
    value, hidden = int(width * spec.value_ratio), int(width * spec.ffn_ratio)
    total = Count(params=width * (1 + spec.ffn))  # residual scales
    total += Count(flops=5 * cells * POINTS * width)  # sampling, as if values had the query's full width
    found = feature.width
    if spec.projection:
        total += linear(feature.cells, feature.width, width)
        found = width
    if spec.norms:
        total += norm(cells, width) * (1 + spec.ffn) + norm(feature.cells, found)
    total += linear(feature.cells, found, value) + linear(cells, value, width)
    total += linear(cells, width, spec.num_heads * spec.num_points * 3)  # offsets (x and y) and weights
    if not spec.ffn:
        return total
    total += linear(cells, width, hidden) + conv(cells, 3, hidden, hidden, groups=hidden)
    return total + linear(cells, hidden, width)
