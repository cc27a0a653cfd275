"""What stands between a backbone's maps and a two-stage detector's heads: a pyramid, or nothing."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from piip.spec import TwoStageSpec


def norm_of(spec: TwoStageSpec) -> Callable[..., nn.Module] | None:
    """Channels -> the norm behind a convolution of the heads; None: there is none."""
    return partial(nn.GroupNorm, 32) if spec.form.norm == "group" else None


def build_neck(channels: Sequence[int], spec: TwoStageSpec) -> nn.Module:
    """Named maps -> named maps, high to low resolution; of the form without a pyramid the same ones.

    Args:
        channels: Of the backbone's maps.
        spec: The head's.
    """
    form, width = spec.form, spec.fpn_channels
    if not form.has_pyramid:
        return nn.Identity()
    extra = LastLevelP6P7(channels[-1], width) if form.maps == "fpn_p7" else LastLevelMaxPool()
    neck = FeaturePyramidNetwork(list(channels), width, extra_blocks=extra, norm_layer=norm_of(spec))
    if form.maps == "fpn_p2":
        for level in range(1, len(channels)):  # what nobody reads is neither computed nor learned
            neck.layer_blocks[level] = nn.Identity()
    return neck
