"""Our parameter names -> the official code's, for goldens, released weights, manifests and optimizer groups.

The official code numbers branches from the largest network (branch1 sees the smallest image); our branches[0] is its last one.
Shapes agree but for two: the merges' scalars are () there and (1,) here, because DeepSpeed cannot broadcast tensors without a
dimension, and Uni-Perceiver's positions are (L, C) there and (1, L, C) here.
"""

import re
from collections.abc import Sequence

from piip.contracts import Maps, Wish
from piip.spec import BranchSpec, Family, PIIPSpec

# (ours, official): a dotted part of a name, replaced once, in this order
_UNIT = [
    # inside a unit "branch1" is the larger network of the pair: our low-resolution one
    ("proj_to_high", "branch1to2_proj"),
    ("proj_to_low", "branch2to1_proj"),
    ("to_high", "branch1to2_injector"),
    ("to_low", "branch2to1_injector"),
    ("ffn.dwconv", "ffn.dwconv.dwconv"),
]
_GAMMAS = [("ls1.gamma", "gamma_1"), ("ls2.gamma", "gamma_2")]
_FAMILY: dict[Family, list[tuple[str, str]]] = {
    "deit": _GAMMAS,
    "beit": _GAMMAS,
    "internvit": [],
    "uniperceiver": [
        *_GAMMAS,
        ("blocks", "layers"),
        ("attn.qkv", "self_attn.in_proj"),
        ("attn.proj", "self_attn.out_proj"),
        ("mlp.fc1", "linear1"),
        ("mlp.fc2", "linear2"),
        ("pos_embed", "visual_embed.patch_embed.spatial_pos_embed.weight"),
        ("frame_embed", "visual_embed.patch_embed.temporal_pos_embed.weight"),
        ("patch_embed.proj", "visual_embed.patch_embed.proj"),
        ("norm_pre", "visual_embed.embeddings_norm"),
    ],
    "convnext": [
        ("stem.0", "convnext_model.embeddings.patch_embeddings"),
        ("stem.1", "convnext_model.embeddings.layernorm"),
        ("stages", "convnext_model.encoder.stages"),
        ("downsample", "downsampling_layer"),
        ("blocks", "layers"),
        ("conv_dw", "dwconv"),
        ("norm", "layernorm"),
        ("mlp.fc1", "pwconv1"),
        ("mlp.fc2", "pwconv2"),
        ("gamma", "layer_scale_parameter"),
    ],
}
_FACEBOOK_CONVNEXT = [
    (r"stem", "downsample_layers.0"),
    (r"stages\.(\d+)\.downsample", r"downsample_layers.\1"),
    (r"stages\.(\d+)\.blocks", r"stages.\1"),
    (r"conv_dw", "dwconv"),
    (r"mlp\.fc(\d)", r"pwconv\1"),
]
"""timm's names (a regular expression) -> those of the files ConvNeXt's authors published."""
_MERGED_HEAD = {"norm_in": 0, "linear": 2, "norm_out": 4}
"""Places in the official sequence; between them it only permutes."""


def to_official(name: str, spec: PIIPSpec) -> str:
    """The official name of a parameter of our PIIP or of a classifier's merged head, without a leading `backbone`.

    `branches.0.blocks.3.ls1.gamma` -> `branch3.blocks.3.gamma_1` for three DeiT branches; `blocks.3.gamma_1` for a single one.

    Args:
        name: Of `PIIP.named_parameters()`, or `merged_head.` and what follows it in a Classifier.
        spec: The backbone's: how many branches, and of which families.

    Raises:
        ValueError: No such backbone has such a parameter.
    """
    count = len(spec.branches)
    match name.split("."):
        case ["branches", i, *rest]:
            inside = _translate(".".join(rest), _FAMILY[spec.branches[int(i)].family])
            return f"branch{count - int(i)}.{inside}" if count > 1 else inside
        case ["interactions", step, pair, *rest]:
            first = count - 1 - int(pair)
            return f"interactions.{step}.interaction_units_{first}{first + 1}.{_translate('.'.join(rest), _UNIT)}"
        case ["merge", "convs", i, *rest]:
            return f"merge_branch{count - int(i)}.{'.'.join(rest)}"
        case ["merge" | "merged_head", "weights", i]:
            return f"w{count - int(i)}"
        case ["merges", step, "convs", i, *rest]:
            return f"intermediate_merging_{step}_branch{count - int(i)}.{'.'.join(rest)}"
        case ["merges", step, "weights", i]:
            return f"intermediate_merging_{step}_w{count - int(i)}"
        case ["pyramid", level, *rest]:
            return f"{'fpn' if count > 1 else 'up'}{int(level) + 1}.{'.'.join(rest)}"
        case ["merged_head", "projections", i, part, leaf]:
            return f"merge_branch{count - int(i)}.{_MERGED_HEAD[part]}.{leaf}"
        case ["merged_head", "last_norm", leaf]:
            return f"merge_branch1.{leaf}"
        case ["merged_head", "norm" | "head" as part, leaf]:
            return f"cls_{part}.{leaf}"
    raise ValueError(f"{name!r} is no parameter of a PIIP with {count} branches")


def public_names(name: str, spec: BranchSpec) -> list[str]:
    """What a parameter of a branch is called in public files: as here and in timm, in the official code, by its authors, on the hub.

    `stages.1.blocks.0.mlp.fc1.weight` of a ConvNeXt -> itself, `convnext_model.encoder.stages.1.layers.0.pwconv1.weight`,
    `stages.1.0.pwconv1.weight` and `convnext.encoder.stages.1.layers.0.pwconv1.weight`.
    """
    official = to_official(f"branches.0.{name}", PIIPSpec(branches=(spec,)))
    if spec.family != "convnext":
        return [name, official]
    authors = name
    for ours, theirs in _FACEBOOK_CONVNEXT:
        authors = re.sub(rf"\b{ours}\b", theirs, authors)
    return [name, official, authors, official.replace("convnext_model.", "convnext.", 1)]


def official_shape(name: str, shape: Sequence[int]) -> list[int]:
    """The shape of a parameter of ours under its official name `name`."""
    if re.fullmatch(r"(.+_)?w\d+", name):
        return []
    return list(shape[1:] if name.endswith("spatial_pos_embed.weight") else shape)


def left_out(name: str, spec: PIIPSpec, wish: Wish = Maps()) -> str | None:  # noqa: B008 (frozen)
    """Why our network has no place for an official tensor `name` of the same network; None: it should have one."""
    if name.endswith(("relative_position_index", "num_batches_tracked")):
        return "computed, not learned"
    if re.fullmatch(r"branch\d+\.convnext(_model)?\.layernorm\.(weight|bias)", name):
        return "a norm behind the last block that the published network never runs"
    if name.endswith("_injector.cffn_gamma") and not spec.interaction.ffn:
        return "the scale of a ConvFFN that this network does not have"
    if name.startswith("fpn1.") and isinstance(wish, Maps) and 4 not in wish.strides and not spec.unused_level:
        return "the stride-4 level, which a network of three maps never runs (unused_level keeps it)"
    return None


def _translate(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    for ours, official in pairs:
        name = re.sub(rf"(?<!\w){re.escape(ours)}(?!\w)", official, name, count=1)
    return name
