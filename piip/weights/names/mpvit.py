"""The published names of an MPViT's tensors: in files of its ImageNet pretraining, and of detectron2's detectors.

What stands before them differs from file to file (nothing, or `backbone.bottom_up.backbone.`): they are found by how they end. The
convolutions that a path's layers share stand in the files once a layer, too.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from piip.spec import MPViTSpec
from piip.weights.read import WeightsError

_NORMED = {"conv": "conv", "norm": "bn"}
_PATCHES = {"depthwise": "dwconv", "pointwise": "pwconv", "norm": "bn"}
_LOCAL = {"before": "conv1", "after": "conv2", "depthwise": "dwconv", "norm": "norm"}
_FIRST = "stem.0.conv.weight"
_ALIAS = re.compile(
    r"(?P<path>mhca_stages\.\d+\.mhca_blks\.\d+\.)MHCA_layers\.\d+\.(?:factoratt_crpe\.)?(?P<shared>c(?:rpe|pe)\..+)"
)
_FC1 = re.compile(r"mhca_stages\.\d+\.mhca_blks\.\d+\.MHCA_layers\.\d+\.mlp\.fc1\.weight")


def official_name(name: str) -> str:
    """`stages.1.paths.0.layers.2.attention.qkv.weight` -> `mhca_stages.1.mhca_blks.0.MHCA_layers.2.factoratt_crpe.qkv.weight`.

    Args:
        name: Of a tensor of our MPViT.

    Raises:
        ValueError: It has none of this name.
    """
    match name.split("."):
        case ["stem", i, ("conv" | "norm") as part, leaf]:
            return f"stem.{i}.{_NORMED[part]}.{leaf}"
        case ["stages", s, "embed", p, ("depthwise" | "pointwise" | "norm") as part, leaf]:
            return f"patch_embed_stages.{s}.patch_embeds.{p}.patch_conv.{_PATCHES[part]}.{leaf}"
        case ["stages", s, "local", ("before" | "after") as part, ("conv" | "norm") as inside, leaf]:
            return f"mhca_stages.{s}.InvRes.{_LOCAL[part]}.{_NORMED[inside]}.{leaf}"
        case ["stages", s, "local", ("depthwise" | "norm") as part, leaf]:
            return f"mhca_stages.{s}.InvRes.{_LOCAL[part]}.{leaf}"
        case ["stages", s, "paths", p, "position", leaf]:
            return f"mhca_stages.{s}.mhca_blks.{p}.cpe.proj.{leaf}"
        case ["stages", s, "paths", p, "neighbours", "convs", i, leaf]:
            return f"mhca_stages.{s}.mhca_blks.{p}.crpe.conv_list.{i}.{leaf}"
        case ["stages", s, "paths", p, "layers", layer, part, *rest]:
            inside = "factoratt_crpe" if part == "attention" else part
            return f"mhca_stages.{s}.mhca_blks.{p}.MHCA_layers.{layer}.{inside}.{'.'.join(rest)}"
        case ["stages", s, "merge", ("conv" | "norm") as part, leaf]:
            return f"mhca_stages.{s}.aggregate.{_NORMED[part]}.{leaf}"
    raise ValueError(f"{name!r} is no tensor of an MPViT")


def prefix_of(tensors: Mapping[str, Tensor]) -> str:
    """What stands before the published names in a file.

    Raises:
        WeightsError: It holds no MPViT, or several.
    """
    found = [name.removesuffix(_FIRST) for name in tensors if name == _FIRST or name.endswith(f".{_FIRST}")]
    if len(found) != 1 or not any(name.startswith(f"{found[0]}mhca_stages.") for name in tensors):
        raise WeightsError(
            f"these are no weights of an MPViT: one name that ends in {_FIRST!r} and names that begin with 'mhca_stages.' were wanted, "
            f"the file's are as {next(iter(tensors), 'none')!r}"
        )
    return found[0]


def without_aliases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, what layers share once.

    Raises:
        WeightsError: Layers of a path do not share them.
    """
    prefix = prefix_of(tensors)
    kept: dict[str, Tensor] = {}
    aliases: list[tuple[str, str]] = []
    for name, value in tensors.items():
        if found := _ALIAS.fullmatch(name.removeprefix(prefix)):
            aliases.append((name, f"{prefix}{found['path']}{found['shared']}"))
        else:
            kept[name] = value
    for name, first in aliases:
        # who saves a tensor once may keep any of its names
        once, value = kept.setdefault(first, tensors[name]), tensors[name]
        if once.shape != value.shape or not (value.is_meta or torch.equal(once, value)):
            raise WeightsError(f"{name} differs from {first}: the layers of an MPViT's path share these convolutions")
    return kept


def mlp_ratio_of(tensors: Mapping[str, Tensor]) -> float:
    """Hidden channels of a file's MLPs, over those they are made of.

    Raises:
        WeightsError: There are none, or they differ.
    """
    prefix = prefix_of(tensors)
    first = [value for name, value in tensors.items() if _FC1.fullmatch(name.removeprefix(prefix))]
    ratios = {value.shape[0] / value.shape[1] for value in first}
    if len(ratios) != 1:
        raise WeightsError(f"an MPViT has MLPs of one ratio of hidden channels, the file's are {sorted(ratios)}")
    return ratios.pop()


def same_mlp_ratio(tensors: Mapping[str, Tensor], spec: MPViTSpec) -> None:
    """Refuses a file whose MLPs are wider or narrower than the network's.

    Raises:
        WeightsError: They are.
    """
    if (ratio := mlp_ratio_of(tensors)) != spec.mlp_ratio:
        raise WeightsError(
            f"the file's MLPs have {ratio:g} times the channels, this network's {spec.mlp_ratio:g}. "
            f"Set model.backbone.mlp_ratio={ratio:g}"
        )
