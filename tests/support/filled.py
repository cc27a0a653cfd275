"""Values behind the goldens of the peers (InternImage, Detectron): normal numbers seeded by a parameter's official name."""

import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

NORMS = (nn.LayerNorm, nn.BatchNorm2d, nn.GroupNorm)


def value(key: str, shape, *, scale: float, around_one: bool = False, variance: bool = False) -> Tensor:
    """One tensor; norms' weights, and layer scales where that is asked for, lie around one."""
    numbers = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(tuple(shape)) * scale
    numbers = 1 + np.abs(numbers) if variance else numbers + around_one
    return torch.from_numpy(np.asarray(numbers))


def fill(
    model: nn.Module, *, scale: float, gamma_one: bool = False, name_of: Callable[[str], str] = str
) -> dict[str, Tensor]:
    """Fills every tensor of a network by its official name; gives them under these names, in case some are to be changed."""
    norms = {name for name, module in model.named_modules() if isinstance(module, NORMS)}
    state = model.state_dict()
    filled = {}
    for name, tensor in state.items():
        owner, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        key = name_of(name)
        one = (owner in norms and leaf == "weight") or (gamma_one and leaf.startswith("gamma"))
        filled[key] = value(key, tensor.shape, scale=scale, around_one=one, variance=leaf == "running_var").to(tensor)
        state[name] = filled[key]
    model.load_state_dict(state)
    return filled
