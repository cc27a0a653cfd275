"""A branch from its family's public pretraining: a file by path or name, or timm's copy on the Hugging Face hub."""

import timm
from torch import Tensor, nn

from piip.spec import BranchSpec, PIIPSpec
from piip.weights.fit import Report, fit
from piip.weights.flax import MARK, to_timm
from piip.weights.names.piip import left_out, public_names
from piip.weights.resizing import adapt
from piip.weights.sources import hub_file, read_weights

_SHARED_BIAS = "rel_pos_bias.relative_position_bias_table"


def load_pretraining(branch: nn.Module, spec: BranchSpec) -> Report:
    """Load `spec.weights` into a built branch; kernels, positions and bias tables are resized to the branch's, as published.

    Names may be ours, which are timm's, the official code's or the authors' own (`naming.public_names`; AugReg's `.npz`).

    Raises:
        WeightsError: The file cannot be had, is damaged, or is of another network.
    """
    assert spec.weights is not None
    weights = read_weights(spec.weights)
    wanted = branch.state_dict()
    tensors = to_timm(weights.tensors) if MARK in weights.tensors else weights.tensors
    tensors = _without_other_heads(_per_block(tensors, wanted), wanted)
    public = {name: public_names(name, spec) for name in wanted}
    roots = {name.partition(".")[0] for names in public.values() for name in names}

    def why_not(name: str) -> str | None:
        if name.partition(".")[0] not in roots:
            return "no part of a branch: a token, a final norm or a head"
        return left_out(f"branch1.{name}", PIIPSpec(branches=(spec,)))

    fitted, report = fit(
        tensors,
        wanted,
        origin=weights.origin,
        name_of=lambda name: next((known for known in public[name] if known in tensors), name),
        adapt=adapt,
        anew=_starts_anew(wanted, tensors),
        why_not=why_not,
    )
    report.require()
    branch.load_state_dict(fitted, strict=False)
    return report


def _per_block(tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """BEiT's one table of relative position biases for all blocks, once per block."""
    tables = [name for name in wanted if name.endswith("relative_position_bias_table")]
    if not tables or _SHARED_BIAS not in tensors:
        return tensors
    rest = {name: value for name, value in tensors.items() if name != _SHARED_BIAS}
    return rest | dict.fromkeys(tables, tensors[_SHARED_BIAS])


def _without_other_heads(tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """A classifier's head of as many classes is a start; another one is not."""
    others = {n for n, v in tensors.items() if n.startswith("head.") and n in wanted and v.shape != wanted[n].shape}
    return {name: value for name, value in tensors.items() if name not in others}


def _starts_anew(wanted: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, str]:
    """What a pretraining need not have."""
    anew = {name: "learned with the task" for name in wanted if name.split(".")[0] in ("head", "norm", "cls_token")}
    if not any(name.rpartition(".")[2] in ("gamma", "gamma_1", "gamma_2") for name in tensors):
        anew |= {name: "the pretraining has no layer scale" for name in wanted if ".ls" in name}
    return anew


def hub_overlay(arch: str, *, otherwise: str) -> dict[str, str] | None:
    """What to tell timm so that it reads `arch`'s weights from the hub's cache; None for networks that are not on the hub.

    Args:
        arch: timm's name with tag.
        otherwise: What can be done without the hub, for the error.

    Raises:
        WeightsError: They are neither in the cache nor is the hub in reach; after seconds, not after the hub client's retries.
    """
    config = timm.get_pretrained_cfg(arch)
    if config is None or config.file or not config.hf_hub_id:
        return None
    repository = config.hf_hub_id + (arch if config.hf_hub_id.endswith("/") else "")
    return {"file": str(hub_file(repository, config.hf_hub_filename, otherwise=otherwise))}
