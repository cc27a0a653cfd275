"""Maps of all branches -> one map -> a feature pyramid."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from piip.models.meeting.interaction import init_linear_and_conv
from piip.models.precision import at_least_fp32

STRIDES = (4, 8, 16, 32)


class Merge(nn.Module):
    """Every branch's map through 3x3 convolutions, resized to the first one's grid, in a weighted sum.

    Args:
        dims: Channels of the maps.
        width: Channels of the sum.
        deep: Two convolutions for every map (one pyramid from the last merge); else one, and none for the last map, which
            has the right width already (one merge per map of the pyramid).
    """

    def __init__(self, dims: Sequence[int], width: int, *, deep: bool = True) -> None:
        super().__init__()
        last = len(dims) - 1
        self.convs = nn.ModuleList(
            nn.Sequential(*_conv_norm_relu(dim, width), *_conv_norm_relu(width, width))
            if deep
            else nn.Sequential(*_conv_norm_relu(dim, width)[i == last :])
            for i, dim in enumerate(dims)
        )
        # one element, not none: DeepSpeed cannot broadcast 0-dimensional parameters
        self.weights = nn.ParameterList(nn.Parameter(torch.ones(1)) for _ in dims)
        self.apply(init_linear_and_conv)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, H_i, W_i) -> (B, width, H_0, W_0)."""
        size = maps[0].shape[-2:]
        total = torch.zeros((), device=maps[0].device)
        for convs, weight, feature in zip(self.convs, self.weights, maps, strict=True):
            merged = convs(feature)
            if merged.shape[-2:] != size:
                merged = F.interpolate(at_least_fp32(merged), size=size, mode="bilinear", align_corners=False)
            total = total + weight * merged
        return total


class Doubling(nn.ConvTranspose2d):
    """A 2x2 transposed convolution of stride 2: every cell becomes four, by one matrix product.

    PyTorch's own backward pass of it, fp32 and channels-last on the CPU, takes more than twice as long.

    Args:
        channels: Of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 2, stride=2)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 * H, 2 * W)."""
        assert output_size is None
        assert self.bias is not None
        weight = self.weight.permute(2, 3, 1, 0).flatten(
            0, 2
        )  # rows, columns and channels of the four, from the channels of one
        four_BHWF = F.linear(input.permute(0, 2, 3, 1), weight, self.bias.repeat(4))
        map_BHrWcC = four_BHWF.unflatten(-1, (2, 2, self.out_channels)).transpose(2, 3)
        return map_BHrWcC.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class SimplePyramid(nn.ModuleList):
    """Maps at the strides they come with -> maps at strides 4, 8, 16, 32 of the same widths, or the coarser three.

    Args:
        widths: Channels of the four levels.
        strides: Of the four inputs: powers of two from 4 to 32.
        out_strides: Which levels are given.
        unused: Keep the layers of levels that are not given.
        group_norm: GroupNorm as PIIP has it between two upsamplings, else LayerNorm over channels as the ViT baselines.
    """

    def __init__(
        self, widths: Sequence[int], strides: Sequence[int], *, out_strides: Sequence[int] = STRIDES,
        unused: bool = False, group_norm: bool = True,
    ) -> None:  # fmt: skip
        if wrong := sorted(set(strides) - set(STRIDES)):
            raise ValueError(f"the first branch has patches of {wrong[0]} pixels; the pyramid needs one of {STRIDES}")
        super().__init__(
            _to_stride(width, given, stride, group_norm=group_norm)
            if unused or stride in out_strides
            else nn.Sequential()
            for width, given, stride in zip(widths, strides, STRIDES, strict=True)
        )
        self.given = [stride in out_strides for stride in STRIDES]
        self.apply(init_linear_and_conv)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Four maps (B, width, H, W) -> the levels, finest first."""
        return [level(f) for level, f, given in zip(self, features, self.given, strict=True) if given]


def _to_stride(width: int, given: int, wanted: int, *, group_norm: bool) -> nn.Sequential:
    """Doubles or pools a map of stride `given` until its stride is `wanted`."""
    layers: list[nn.Module] = []
    for doubling in range(int(math.log2(given / wanted)) if wanted < given else 0):
        if doubling:
            layers += [_group_norm(width) if group_norm else LayerNorm2d(width), nn.GELU()]
        layers.append(Doubling(width))
    if wanted > given:
        layers.append(nn.MaxPool2d(wanted // given))
    return nn.Sequential(*layers)


def _conv_norm_relu(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), _group_norm(out_channels), nn.ReLU()]


def _group_norm(channels: int) -> nn.GroupNorm:
    """32 groups as published, fewer where a narrow network's width is no multiple of 32."""
    return nn.GroupNorm(math.gcd(32, channels), channels)
