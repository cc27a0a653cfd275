"""AdamW with layer-wise learning-rate decay, warm-up and a schedule."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from piip.spec import OptimSpec


def build_optimizer(model: nn.Module, spec: OptimSpec, distances: Mapping[str, int]) -> torch.optim.AdamW:
    """AdamW over groups of equal rate and weight decay.

    Each group carries `lr_scale` = layer_decay ** distance; `set_lr` multiplies it with the schedule.

    Args:
        model: Its trainable parameters are optimised.
        spec: Rates and decays.
        distances: Parameter name -> number of blocks above it in its branch; absent means 0 (interactions, merge, heads).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # as the official constructor: norms, biases, layer scales are never decayed; position embeddings and the merge's
            # scalar weights (0-d there, one element here) are
            vector = parameter.ndim == 1 and parameter.numel() > 1
            decay = 0.0 if vector or name.endswith(".bias") else spec.weight_decay
            groups.setdefault((spec.layer_decay ** distances.get(name, 0), decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr_scale": scale, "lr": spec.lr * scale, "weight_decay": decay}
            for (scale, decay), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
        ],
        lr=spec.lr,
        betas=spec.betas,
    )


def schedule(spec: OptimSpec, step: int, num_steps: int) -> float:
    """The factor on the learning rate for optimizer step `step` (from 1) of `num_steps`."""
    if step <= spec.warmup_steps:
        progress = step / spec.warmup_steps
        return spec.warmup_ratio + (1 - spec.warmup_ratio) * progress
    match spec.schedule:
        case "step":
            return 0.1 ** sum(step > milestone * num_steps for milestone in spec.milestones)
        case "cosine":
            progress = (step - spec.warmup_steps) / max(1, num_steps - spec.warmup_steps)
            return 0.5 * (1 + math.cos(math.pi * progress))
        case "constant":
            return 1.0


def set_lr(optimizer: torch.optim.Optimizer, spec: OptimSpec, step: int, num_steps: int) -> float:
    """Set every group's rate for `step`; returns the base rate."""
    base = spec.lr * schedule(spec, step, num_steps)
    for group in optimizer.param_groups:
        group["lr"] = base * group["lr_scale"]
    return base
