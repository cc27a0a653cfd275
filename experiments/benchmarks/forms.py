"""The ways in which benchmarks compute one network: as the official code does, and with our switches on, one after the other."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

import torch
from timm.layers import DropPath
from torch import nn

from piip.models.branches.vit import Branch
from piip.models.meeting.interaction import DeformableCrossAttention
from piip.models.meeting.merge import Doubling
from piip.models.speed import set_speed
from piip.spec import SpeedSpec

OFFICIAL = SpeedSpec(
    windows="padded", interactions="fp32", attention="products", layout="contiguous", memory="returned"
)
PLAIN_FP32 = "+ freed memory kept (plain fp32, all on)"


@dataclass(frozen=True)
class Form:
    """A way to compute the same network."""

    speed: SpeedSpec = OFFICIAL
    kernel: str = "reference"
    doubling: bool = False
    fused_optimizer: bool = False
    bf16: bool = False

    def apply(self, network: nn.Module) -> None:
        """Makes a network compute in this form."""
        set_speed(network, self.speed, precision="bf16" if self.bf16 else "fp32")
        for module in network.modules():
            if isinstance(module, DeformableCrossAttention):
                module.kernel = self.kernel
            elif isinstance(module, Doubling):
                module.forward = partial((Doubling if self.doubling else nn.ConvTranspose2d).forward, module)

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """bf16 where the form says so; enter it around the forward pass."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)


def forms() -> dict[str, Form]:
    """Cumulative, reference first."""
    form = Form()
    found = {"official-equivalent fp32": form}
    for name, change, switch in (
        ("+ compiled deformable attention", {"kernel": "auto"}, {}),
        ("+ SDPA", {}, {"attention": "sdpa"}),
        ("+ exact windows", {}, {"windows": "exact"}),
        ("+ transposed convolutions as products", {"doubling": True}, {}),
        ("+ maps channels-last", {}, {"layout": "channels_last"}),
        ("+ one-pass AdamW", {"fused_optimizer": True}, {}),
        (PLAIN_FP32, {}, {"memory": "kept"}),
        ("+ bf16, interactions fp32", {"bf16": True}, {}),
        ("+ attention that suits bf16", {}, {"attention": "auto"}),
        ("+ bf16 in interactions", {}, {"interactions": "mixed"}),
        ("+ bf16 in their offsets", {}, {"interactions": "bf16"}),
        ("+ bf16 in heads", {}, {"heads": "bf16"}),
    ):
        form = replace(form, **change, speed=form.speed.override(switch))
        found[name] = form
    return found


def compiled_forms() -> dict[str, Form]:
    """The fp32 and the fastest of `forms` with compiled blocks, for a CPU: minutes of compiling."""
    found, compiled = forms(), {"compile": "blocks"}
    kept = {"compiled blocks, fp32": found[PLAIN_FP32], "compiled blocks, bf16": list(found.values())[-1]}
    return {name: replace(form, speed=form.speed.override(compiled)) for name, form in kept.items()}


def gpu_forms() -> dict[str, Form]:
    """What SpeedSpec has for a GPU, in bf16: each a change to the last of `forms`."""
    fastest = list(forms().values())[-1]
    choices: dict[str, dict[str, object]] = {
        "windows of all shapes in one call": {"attention": "varlen"},
        "branches on streams": {"streams": True},
        "compiled blocks": {"compile": "blocks"},
        "compiled blocks, branches on streams": {"compile": "blocks", "streams": True},
        "compiled blocks in CUDA graphs": {"compile": "cuda_graphs"},
    }
    return {name: replace(fastest, speed=fastest.speed.override(choice)) for name, choice in choices.items()}


def ends() -> dict[str, Form]:
    """The official code's form and our fastest, in fp32 and in bf16."""
    fastest = list(forms().values())[-1]
    return {
        "official fp32": Form(),
        "ours fp32": replace(fastest, bf16=False),
        "official bf16": Form(bf16=True),
        "ours bf16": fastest,
    }


def make_comparable(network: nn.Module) -> nn.Module:
    """Every form sees the same numbers, and interactions do something: no drop path, no recomputed blocks, scales of 0.1."""
    for module in network.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
        elif isinstance(module, Branch):
            module.checkpointing = False
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("ca_gamma", "cffn_gamma")):  # they start at 0, and then interactions do nothing
                parameter.fill_(0.1)
    return network
