"""The switches of SpeedSpec, set on a network that is built; which attention runs."""

import ctypes
import functools
import platform
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, TypeVar

import timm.layers
import torch
from timm.models import beit
from torch import nn
from torch.nn import attention as torch_attention

from piip.models.backbones.internimage import InternImage
from piip.models.backbones.piip import PIIP
from piip.models.branches.vit import Branch
from piip.models.heads.dino.attention import PyramidAttention
from piip.models.heads.roi_heads import RoIHeads
from piip.models.layers.dcnv3 import DCNv3
from piip.models.meeting.interaction import ConvFFN, DeformableCrossAttention, InteractionUnit
from piip.models.precision import Fp32Head
from piip.spec import SpeedSpec

R = TypeVar("R")
Attention = Literal["sdpa", "products", "flash", "varlen"]
MOST_SIZES = 128
"""Compiled forms of one region, over all branches, windows and sizes of image; dynamo's own limit of 8 is for one network part."""


def set_speed(model: nn.Module, speed: SpeedSpec, *, precision: str = "fp32") -> None:
    """Sets `model` and this process as `speed` says; see `switch_network` and `switch_process`."""
    switch_process(speed, next(model.parameters()).device, precision=precision)
    switch_network(model, speed, precision=precision)


def switch_process(speed: SpeedSpec, device: torch.device, *, precision: str = "fp32") -> None:
    """Sets what all networks of this process share: what becomes of freed memory, and which FlashAttention PyTorch calls.

    Raises:
        RuntimeError: An attention was asked for by name and cannot run here.
    """
    keep_freed_memory(speed.memory == "kept")
    _use_flash_attention_4(active_attention(speed.attention, device, precision) == "flash")


def switch_network(model: nn.Module, speed: SpeedSpec, *, precision: str = "fp32") -> None:
    """Sets every part of `model` as `speed` says; parameters and their names stay, and so does all else in this process.

    Args:
        model: On the device it will run on.
        speed: The switches.
        precision: "bf16" (by autocast) or "fp32"; what `train.precision` says.

    Raises:
        RuntimeError: A switch asks for what this machine does not have.
    """
    device = next(model.parameters()).device
    attention = active_attention(speed.attention, device, precision)
    if speed.streams and device.type != "cuda":
        raise RuntimeError(f"speed.streams=true needs a CUDA GPU, the network is on {device}. Set it to false.")
    contiguous = speed.layout == "contiguous"
    _compile_regions(model, speed.compile)
    for module in model.modules():
        if isinstance(module, Branch):
            module.set_windows(exact=speed.windows == "exact", together=attention == "varlen")
        elif isinstance(module, PIIP):
            module.streams, module.contiguous = speed.streams, contiguous
        elif isinstance(module, DeformableCrossAttention):
            module.kernel = speed.kernel
            module.fp32, module.fp32_offsets = speed.interactions == "fp32", speed.interactions != "bf16"
        elif isinstance(module, DCNv3):
            module.kernel = speed.kernel
        elif isinstance(module, PyramidAttention):
            module.kernel = "auto" if speed.kernel == "triton" else speed.kernel  # which has no form for several levels
        elif isinstance(module, ConvFFN | InternImage | RoIHeads):
            module.contiguous = contiguous
        elif isinstance(module, Fp32Head):
            module.fp32_heads = speed.heads == "fp32"
        elif isinstance(module, timm.layers.Attention | beit.Attention):
            module.fused_attn = attention != "products"  # type: ignore[misc]


def keep_freed_memory(wanted: bool) -> None:
    """Tells glibc's allocator, for the whole process, to keep freed memory; or to give it back as it does by itself.

    It gives back what is free at the end of its heap as soon as that is twice the largest block ever freed (at most 64 MB): gradients
    and activations, every step, and the kernel then zeroes each of their pages anew.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for option, kept, returned in ((_M_TRIM_THRESHOLD, 2**31 - 1, 2**26), (_M_MMAP_THRESHOLD, 2**30, 2**25)):
        assert libc.mallopt(option, kept if wanted else returned) == 1


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def _compile_regions(model: nn.Module, choice: str) -> None:
    """Branches' blocks and interaction units, each compiled once for all that look alike; choice "off" undoes it."""
    device = next(model.parameters()).device
    if choice == "cuda_graphs" and device.type != "cuda":
        raise RuntimeError(
            f"speed.compile='cuda_graphs' needs a CUDA GPU, the network is on {device}. Take 'blocks' or 'off'."
        )
    mode = "reduce-overhead" if choice == "cuda_graphs" else None
    for kind, name in ((Branch, "_block"), (InteractionUnit, "forward")):
        plain = getattr(kind, name)
        compiled = None
        if choice != "off":
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_SIZES)
            compiled = torch.compile(plain, fullgraph=True, dynamic=False, mode=mode)
        for module in model.modules():
            if isinstance(module, kind):
                vars(module).pop(name, None)
                if compiled:
                    setattr(module, name, functools.partial(_in_training, compiled, plain, module))


def _in_training(compiled: Callable[..., R], plain: Callable[..., R], *given: object) -> R:
    """The compiled form where gradients are wanted: evaluation sees too many sizes too few times."""
    return (compiled if torch.is_grad_enabled() else plain)(*given)


def active_attention(request: str, device: torch.device, precision: str) -> Attention:
    """What attention inside branches runs on, for `speed.attention`.

    Raises:
        RuntimeError: It was asked for by name and cannot run here.
    """
    if request == "auto" and device.type == "cpu" and precision == "bf16":
        return "products"
    if request == "auto":
        return "sdpa" if _problem("flash", device, precision) else "flash"
    if problem := _problem(request, device, precision):
        raise RuntimeError(f"speed.attention={request!r} cannot run: {problem}. Take 'auto' or 'sdpa'.")
    return request  # type: ignore[return-value]


def _problem(attention: str, device: torch.device, precision: str) -> str:
    """Why it cannot run; empty where it can."""
    if attention in ("sdpa", "products"):
        return ""
    if device.type != "cuda":
        return f"it runs on a CUDA GPU, the network is on {device}"
    if precision != "bf16":
        return f"it takes bf16, train.precision is {precision}"
    capability = torch.cuda.get_device_capability(device)
    if attention == "varlen":
        return "" if capability >= (8, 0) else f"it needs compute capability 8.0, this GPU has {_dotted(capability)}"
    if capability[0] not in (9, 10):
        return f"FlashAttention 4 needs compute capability 9.0 or 10.0, this GPU has {_dotted(capability)}"
    return "" if _has_flash_attention_4() else "flash-attn-4 is not installed (pip install 'piip[flash]')"


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


@functools.cache
def _has_flash_attention_4() -> bool:
    return find_spec("flash_attn") is not None and find_spec("flash_attn.cute") is not None


def _use_flash_attention_4(wanted: bool) -> None:
    """Puts FlashAttention 4 in the place of the 2 that PyTorch has, for the whole process, or takes it out again."""
    active = torch_attention.current_flash_attention_impl()
    if wanted and active != "FA4":
        torch_attention.activate_flash_attention_impl("FA4")
    elif not wanted and active == "FA4":
        torch_attention.restore_flash_attention_impl()
