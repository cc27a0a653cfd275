"""The switches of SpeedSpec, set on a network that is built; which attention runs."""

import functools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import attention as torch_attention

from piip.models.branches import Branch
from piip.models.interaction import DeformableCrossAttention, Injector
from piip.models.piip import PIIP
from piip.spec import SpeedSpec

Attention = Literal["sdpa", "flash", "varlen"]
MOST_SIZES = 128
"""Compiled forms of one region, over all branches, windows and sizes of image; dynamo's own limit of 8 is for one network part."""


def set_speed(model: nn.Module, speed: SpeedSpec, *, precision: str = "fp32") -> None:
    """Sets every part of `model` as `speed` says; parameters and their names stay.

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
    _use_flash_attention_4(attention == "flash")
    _compile_regions(model, speed.compile)
    for module in model.modules():
        if isinstance(module, Branch):
            module.set_windows(exact=speed.windows == "exact", together=attention == "varlen")
        elif isinstance(module, PIIP):
            module.streams = speed.streams
        elif isinstance(module, DeformableCrossAttention):
            module.fp32 = speed.interactions == "fp32"


def _compile_regions(model: nn.Module, choice: str) -> None:
    """Branches' blocks and injectors, each compiled once for all that look alike; choice "off" undoes it."""
    device = next(model.parameters()).device
    if choice == "cuda_graphs" and device.type != "cuda":
        raise RuntimeError(
            f"speed.compile='cuda_graphs' needs a CUDA GPU, the network is on {device}. Take 'blocks' or 'off'."
        )
    mode = "reduce-overhead" if choice == "cuda_graphs" else None
    for kind, name in ((Branch, "_block"), (Injector, "forward")):
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


def _in_training(compiled: Callable[..., Tensor], plain: Callable[..., Tensor], *given: object) -> Tensor:
    """The compiled form where gradients are wanted: evaluation sees too many sizes too few times."""
    return (compiled if torch.is_grad_enabled() else plain)(*given)


def active_attention(request: str, device: torch.device, precision: str) -> Attention:
    """What attention inside branches runs on, for `speed.attention`.

    Raises:
        RuntimeError: It was asked for by name and cannot run here.
    """
    if request == "auto":
        return "sdpa" if _problem("flash", device, precision) else "flash"
    if problem := _problem(request, device, precision):
        raise RuntimeError(f"speed.attention={request!r} cannot run: {problem}. Take 'auto' or 'sdpa'.")
    return request  # type: ignore[return-value]


def _problem(attention: str, device: torch.device, precision: str) -> str:
    """Why it cannot run; empty where it can."""
    if attention == "sdpa":
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
