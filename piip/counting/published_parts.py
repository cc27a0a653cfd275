"""What one part of a network costs by the rules of the official PIIP scripts: one multiply-add is one FLOP.

A Linear counts its products and not its bias, a convolution both, LayerNorm and GroupNorm twice their elements.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Count:
    """Multiply-adds for one image, and parameters."""

    flops: int = 0
    params: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.flops + other.flops, self.params + other.params)

    def __mul__(self, times: int) -> "Count":
        return Count(self.flops * times, self.params * times)


@dataclass(frozen=True)
class Stage:
    """The map of a branch at one interaction."""

    width: int
    """Channels."""
    side: int
    """Cells in a row of the square map."""

    @property
    def cells(self) -> int:
        """Tokens of the map."""
        return self.side**2


@dataclass(frozen=True)
class ViT:
    """What the count of a Vision Transformer branch depends on."""

    resolution: int
    """Side of its square image in pixels."""
    width: int
    windows: tuple[int | None, ...]
    """Side of the attention windows in patches for every block; None is global."""
    mlp_ratio: float = 4
    patch_size: int = 16
    qkv_bias: bool = True
    layer_scale: bool = True
    rms_norm: bool = False
    qk_norm: bool = False
    class_token: bool = False
    """A class token goes through the blocks (released classifiers)."""
    class_position: bool = False
    """The position embedding has a row for a class token, used or not."""
    position_grid: int | None = None
    """Side of the stored position embedding; None: one position per patch of this resolution."""
    pads_before_qkv: bool = False
    """Windows are padded before the qkv layer, which then counts padded tokens."""

    def stages(self, count: int) -> list[Stage]:
        """The map at each of `count` interactions."""
        return [Stage(self.width, self.resolution // self.patch_size)] * count

    def count(self) -> Count:
        """Patches, positions and blocks; no final norm, no head."""
        cells = (self.resolution // self.patch_size) ** 2
        rows = cells if self.position_grid is None else self.position_grid**2
        positions = Count(params=(rows + self.class_position + self.class_token) * self.width)
        blocks = sum((self._block(window) for window in self.windows), Count())
        return conv(cells, self.patch_size, 3, self.width) + positions + blocks

    def _block(self, window: int | None) -> Count:
        side, width, hidden = self.resolution // self.patch_size, self.width, int(self.width * self.mlp_ratio)
        tokens = side**2 + self.class_token
        in_qkv = (math.ceil(side / window) * window) ** 2 if window and self.pads_before_qkv else tokens
        norms = self._norm(tokens) * 2 + self._norm(in_qkv) * (2 * self.qk_norm)
        projections = linear(in_qkv, width, 3 * width, bias=self.qkv_bias) + linear(tokens, width, width)
        # q @ k and weights @ v; neither padding nor the class token is counted
        attention = Count(flops=2 * side**2 * (window or side) ** 2 * width)
        mlp = linear(tokens, width, hidden) + linear(tokens, hidden, width)
        return norms + projections + attention + mlp + Count(params=2 * width * self.layer_scale)

    def _norm(self, tokens: int) -> Count:
        return Count(params=self.width) if self.rms_norm else norm(tokens, self.width)


@dataclass(frozen=True)
class ConvNeXt:
    """What the count of a ConvNeXt branch depends on."""

    resolution: int
    widths: tuple[int, ...]
    """Channels of the four stages."""
    depths: tuple[int, ...]
    """Blocks of the four stages."""

    def stages(self, count: int) -> list[Stage]:
        """The map at each interaction: one after the first stage, one after the second, one after the last, the others within the third."""
        first, second, third, last = (
            Stage(width, self.resolution // stride) for width, stride in zip(self.widths, (4, 8, 16, 32), strict=True)
        )
        return [first, second, *[third] * (count - 3), last]

    def count(self) -> Count:
        """All stages; their norms have parameters but no FLOPs, the last one is counted though nothing reads it."""
        total = Count(params=2 * self.widths[0] + 2 * self.widths[-1])
        before = 3
        for i, (stage, depth) in enumerate(zip(self.stages(4), self.depths, strict=True)):
            kernel = 2 if i else 4
            total += conv(stage.cells, kernel, before, stage.width) + Count(params=2 * before if i else 0)
            total += self._block(stage) * depth
            before = stage.width
        return total

    def _block(self, stage: Stage) -> Count:
        cells, width = stage.cells, stage.width
        norm_and_scale = Count(params=3 * width)
        mlp = linear(cells, width, 4 * width) + linear(cells, 4 * width, width)
        return conv(cells, 7, width, width, groups=width) + norm_and_scale + mlp


Branch = ViT | ConvNeXt


def linear(tokens: int, inputs: int, outputs: int, *, bias: bool = True) -> Count:
    """A fully connected layer on `tokens` vectors."""
    return Count(tokens * inputs * outputs, inputs * outputs + bias * outputs)


def conv(cells: int, kernel: int, inputs: int, outputs: int, *, groups: int = 1, bias: bool = True) -> Count:
    """A convolution with `cells` output positions; a transposed one with its input's positions counts alike."""
    weights = kernel**2 * inputs * outputs // groups
    return Count(cells * (weights + bias * outputs), weights + bias * outputs)


def norm(tokens: int, width: int) -> Count:
    """LayerNorm, or GroupNorm of as many channels."""
    return Count(2 * tokens * width, 2 * width)
