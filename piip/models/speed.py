"""The switches of SpeedSpec, set on a network that is built."""

from torch import nn

from piip.models.branches import Branch
from piip.models.interaction import DeformableCrossAttention
from piip.spec import SpeedSpec


def set_speed(model: nn.Module, speed: SpeedSpec) -> None:
    """Sets every part of `model` as `speed` says; parameters and their names stay."""
    for module in model.modules():
        if isinstance(module, Branch):
            module.set_windows(exact=speed.windows == "exact")
        elif isinstance(module, DeformableCrossAttention):
            module.fp32 = speed.interactions == "fp32"
