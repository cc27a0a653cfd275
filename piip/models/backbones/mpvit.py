"""MPViT: stages of several transformers side by side, on patches of rising size, and a convolution beside them (arXiv 2112.11010).

Written from the paper and from facts about the published networks (piip/weights/names/mpvit.py has their names). Maps are channels last
in memory, so that tokens and maps are views of each other.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from piip.contracts import Maps, Wish
from piip.models.backbones.wishes import STRIDES, strides_of
from piip.models.layers.factorised import FactorisedLayer, Neighbours
from piip.spec import MPViTSpec

# B batch, H W map, C channels


class MPViT(nn.Module):
    """Image -> maps at those of the strides 4, 8, 16, 32 that the head asks for.

    BatchNorms learn, and count the images of all workers where there are GPUs (`shares_statistics`).

    Args:
        spec: Widths, depths and paths.
        wish: The head's. Stages behind the coarsest map that it asks for are not built.
    """

    def __init__(self, spec: MPViTSpec, wish: Wish = Maps()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.strides = strides_of(wish, STRIDES, what="an MPViT")
        built = STRIDES.index(max(self.strides)) + 1
        self.depths = spec.depths[:built]
        self.out_channels = [spec.out_channels[STRIDES.index(stride)] for stride in self.strides]
        first, rates = spec.channels[0], spec.drop_paths()
        self.stem = nn.Sequential(
            ConvNorm(3, first // 2, 3, stride=2, act=nn.Hardswish()),
            ConvNorm(first // 2, first, 3, stride=2, act=nn.Hardswish()),
        )
        self.stages: Sequence[Stage] = nn.ModuleList(  # type: ignore[assignment]
            Stage(spec, stage, rates[stage]) for stage in range(built)
        )
        self.apply(_initialise)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps (B, C_i, H / s, W / s) rounded up, s in `strides`."""
        x, maps = self.stem(images.contiguous(memory_format=torch.channels_last)), []
        for stride, stage in zip(STRIDES, self.stages, strict=False):
            x = stage(x)
            if stride in self.strides:
                maps.append(x)
        return maps

    def part_of(self, name: str) -> str:
        """All of it is one row of the cost table."""
        del name
        return "backbone"

    def layer_ids(self, *, exact: bool = False) -> dict[str, float]:
        """Parameter name -> distance from the end, for lr * layer_decay ** distance: the last layers at 1, the stem at layers + 1.

        Layers of the same depth are at the same distance on all paths. With a stage's first ones go what makes its patches, what the
        layers share and the convolutional path; with its last ones, what puts the paths together. Published recipes have no decay.
        """
        del exact
        last = sum(self.depths) + 1
        return {name: last - self._layer(name.split(".")) for name, _ in self.named_parameters()}

    def _layer(self, words: Sequence[str]) -> int:
        """The number of the layer that a parameter belongs to, from the front: 0 the stem, 1 the first layer."""
        if words[0] == "stem":
            return 0
        stage = int(words[1])
        inside = {"embed": 1, "local": 1, "paths": 1, "merge": self.depths[stage]}[words[2]]
        if words[2] == "paths" and words[4] == "layers":
            inside = int(words[5]) + 1
        return sum(self.depths[:stage]) + inside


class Stage(nn.Module):
    """Maps of patches, each through a path of its own; what they say, side by side, in one map.

    Args:
        spec: The network's.
        stage: 0 to 3; the later ones halve the map.
        rates: Drop path of the layers.
    """

    def __init__(self, spec: MPViTSpec, stage: int, rates: Sequence[float]) -> None:
        super().__init__()
        width, paths = spec.channels[stage], spec.paths[stage]
        # the first one begins with the width of the stage before, which that one's `merge` has made
        self.embed = nn.ModuleList(Patches(width, stride=2 if stage and not path else 1) for path in range(paths))
        self.local = Local(width)
        self.paths = nn.ModuleList(
            Path(width, spec.mlp_ratio, rates, checkpointing=spec.checkpointing) for _ in range(paths)
        )
        self.merge = ConvNorm(width * (paths + 1), spec.out_channels[stage], 1, act=nn.Hardswish())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the stage's map."""
        patches = []
        for embed in self.embed:
            x = embed(x)
            patches.append(x)
        ways = [path(patch) for path, patch in zip(self.paths, patches, strict=True)]
        return self.merge(torch.cat([self.local(patches[0]), *ways], dim=1))


class Patches(nn.Module):
    """A separable 3x3 convolution: the n-th of a row sees patches of side 2 n + 1."""

    def __init__(self, channels: int, *, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.Hardswish()
        _normal(self.depthwise, fan_out=9 * channels)
        _normal(self.pointwise, fan_out=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, or half as large."""
        return self.act(self.norm(self.pointwise(self.depthwise(x))))


class Local(nn.Module):
    """The convolutional path: an inverted residual that is no wider inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = ConvNorm(channels, channels, 1, act=nn.Hardswish())
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.Hardswish()
        self.after = ConvNorm(channels, channels, 1)
        _normal(self.depthwise, fan_out=9)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return x + self.after(self.act(self.norm(self.depthwise(self.before(x)))))


class Path(nn.Module):
    """A transformer on one size of patches. Its layers share the two convolutions that tell positions.

    Args:
        channels: Of its map.
        mlp_ratio: Of its layers.
        rates: Drop path of its layers.
        checkpointing: Recompute layers in the backward pass.
    """

    def __init__(self, channels: int, mlp_ratio: float, rates: Sequence[float], *, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.position = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.neighbours = Neighbours(channels)
        self.layers = nn.ModuleList(FactorisedLayer(channels, mlp_ratio, rate) for rate in rates)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The same shape."""
        for layer in self.layers:
            again = self.checkpointing and self.training
            x_BCHW = checkpoint(self._step, layer, x_BCHW, use_reentrant=False) if again else self._step(layer, x_BCHW)
        return x_BCHW

    def _step(self, layer: nn.Module, x_BCHW: Tensor) -> Tensor:
        x_BCHW = x_BCHW + self.position(x_BCHW)
        return layer(x_BCHW.permute(0, 2, 3, 1), self.neighbours).permute(0, 3, 1, 2)


class ConvNorm(nn.Module):
    """A convolution and a BatchNorm, and what may stand behind."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, act: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.act = act or nn.Identity()
        _normal(self.conv, fan_out=kernel**2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return self.act(self.norm(self.conv(x)))


def _normal(conv: nn.Conv2d, *, fan_out: int) -> None:
    nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_out))


def _initialise(module: nn.Module) -> None:
    """Truncated normal linear layers; convolutions are drawn where they are made, positions' as PyTorch does."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
