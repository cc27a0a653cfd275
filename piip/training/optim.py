"""AdamW with layer-wise learning-rate decay, warm-up and a schedule."""

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from piip.contracts import Backbone
from piip.models.network import Network
from piip.spec import OptimSpec

POSITIONS = ("pos_embed", "cls_token", "frame_embed", "relative_position_bias_table")
"""How names of learned positions and tokens end."""
JOINTS = ("backbone.interactions.", "backbone.merge", "backbone.pyramid.")
"""How names begin of what joins a PIIP's branches."""
OFFSETS = ".sampling_offsets."
"""In names of DINO's layers that say where attention looks."""


def distances_of(model: Network, spec: OptimSpec) -> dict[str, float]:
    """Parameter name -> distance from the end of its backbone, for `build_optimizer`.

    Args:
        model: Whose backbone says it.
        spec: Its `groups`: `corrected` takes every layer where it is, all others where the official code does.
    """
    backbone = cast(Backbone, model.backbone)
    distances = {f"backbone.{name}": d for name, d in backbone.layer_ids(exact=spec.groups == "corrected").items()}
    if spec.groups == "internimage":
        stem = cast(int, model.backbone.stem_distance)
        distances |= {name: stem for name, _ in model.named_parameters() if name.endswith(".level_embed")}
    return distances


def build_optimizer(model: nn.Module, spec: OptimSpec, distances: Mapping[str, float]) -> torch.optim.AdamW:
    """AdamW over groups of equal rate and weight decay.

    Each group carries `lr_scale` = layer_decay ** distance; `set_lr` multiplies it with the schedule.

    Args:
        model: Its trainable parameters are optimised.
        spec: Rates and decays.
        distances: Of `distances_of`: parameter name -> number of blocks above it in its branch; absent means 0 (interactions, merge,
            heads).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = spec.weight_decay if _decays(name, parameter, spec.groups) else 0.0
            scale = _scale(name, spec, distances.get(name, 0))
            groups.setdefault((scale, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr_scale": scale, "lr": spec.lr * scale, "weight_decay": decay}
            for (scale, decay), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
        ],
        lr=spec.lr,
        betas=spec.betas,
        fused=True,  # one pass over weights, gradients and moments instead of a dozen; its `step` lies beside the parameter
    )


def _scale(name: str, spec: OptimSpec, distance: float) -> float:
    """How many times `lr` a parameter learns at, see OptimSpec.groups."""
    match spec.groups:
        case "uniform":
            return 1.0
        case "classification":
            # what joins pretrained networks learns ten times faster; separate heads sit in the branches there
            pretrained = name.startswith(("backbone.", "head.own.")) and not name.startswith(JOINTS)
            return 1.0 if pretrained else 10.0
        case "released" | "corrected" | "internimage":
            return spec.layer_decay**distance * (spec.offset_rate if OFFSETS in name else 1.0)


def _decays(name: str, parameter: nn.Parameter, rules: str) -> bool:
    """Whether weight decay pulls at a parameter, see OptimSpec.groups."""
    if rules in ("classification", "uniform"):
        return True
    if rules == "internimage":
        return parameter.ndim > 1 and OFFSETS not in name
    vector = parameter.ndim == 1 and parameter.numel() > 1
    if vector or name.endswith(".bias"):
        return False
    # the official constructor spares norms, biases and layer scales, but by a slip not these: positions, because it looks for
    # names without their prefix, and the merges' scalar weights, 0-d there and one element here
    unlike_weights = parameter.numel() == 1 or name.rsplit(".", 1)[-1] in POSITIONS
    return rules == "released" or not unlike_weights


def schedule(spec: OptimSpec, step: int, num_steps: int, *, scale: float = 1.0) -> float:
    """The factor on the learning rate for optimizer step `step` (from 1) of `num_steps`.

    Args:
        spec: The schedule and its warm-up.
        step: From 1.
        num_steps: Of the training.
        scale: Of the group; one that learns faster than `lr` ends at the same rate, which is a smaller part of its own.
    """
    warmup = spec.warmup_steps if spec.warmup_part is None else round(spec.warmup_part * num_steps)
    # mmcv counts its steps from 0, and warms up to where the falling rate is by then
    falling = 1 - (step - 1) / num_steps if spec.schedule == "poly" else 1.0
    if step <= warmup:
        return (spec.warmup_ratio + (1 - spec.warmup_ratio) * step / warmup) * falling
    match spec.schedule:
        case "step":
            return 0.1 ** sum(step > milestone * num_steps for milestone in spec.milestones)
        case "cosine":
            least = spec.min_lr / spec.lr / max(1.0, scale)
            progress = (step - warmup) / (num_steps - warmup)
            return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * progress))
        case "poly" | "constant":
            return falling


def set_lr(optimizer: torch.optim.Optimizer, spec: OptimSpec, step: int, num_steps: int) -> float:
    """Set every group's rate for `step`; returns the base rate."""
    for group in optimizer.param_groups:
        scale = group["lr_scale"]
        group["lr"] = spec.lr * scale * schedule(spec, step, num_steps, scale=scale)
    return spec.lr * schedule(spec, step, num_steps)
