"""Where arithmetic must not be in half precision."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocast off, where the device has one at all (meta, on which costs are counted, has none)."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


def head_precision(device: torch.device, *, fp32: bool) -> AbstractContextManager[object]:
    """No autocast for a head that computes in fp32 under it, as the official code's do; else whatever is on."""
    return without_autocast(device) if fp32 else nullcontext()


def at_least_fp32(tensor: Tensor) -> Tensor:
    """The tensor in fp32; in float64 where it is in that."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class Fp32Head(nn.Module):
    """A head whose layers compute in fp32 under autocast, as the official code's do, until `speed.heads` says otherwise."""

    fp32_heads = True
