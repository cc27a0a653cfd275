"""InternImage: a hierarchy of blocks whose spatial operator is DCNv3 (arXiv 2211.05778). Parameters are named as in the public weights.

Maps are channels last inside. Norms sit in sequences, as the public names count them.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from timm.layers import DropPath, Mlp
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from piip.contracts import Maps, Wish
from piip.models.backbones.wishes import STRIDES, strides_of
from piip.models.layers.dcnv3 import DCNv3, ToChannelsLast
from piip.spec import InternImageForm
from piip.weights.names.internimage import fit_pretraining
from piip.weights.sources import read_weights

# B batch, H W map, C channels


class InternImage(nn.Module):
    """Image -> maps at those of the strides 4, 8, 16, 32 that the head asks for, C to 8 C channels wide.

    Args:
        spec: Depths, widths and form of the blocks.
        wish: The head's. Levels behind the coarsest map that it asks for are not built.
        pretrained: False starts from random weights, whatever the spec says.

    Raises:
        ValueError: It asks for what is not there, or `spec.weights` cannot be had, or is of another network.
    """

    def __init__(
        self,
        spec: InternImageForm,
        wish: Wish = Maps(),  # noqa: B008 (frozen)
        *,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        self.strides = strides_of(wish, STRIDES, what="an InternImage")
        built = STRIDES.index(max(self.strides)) + 1
        self.spec, self.depths = spec, spec.depths[:built]
        self.out_channels = [spec.channels * stride // 4 for stride in self.strides]
        self.contiguous = False  # see SpeedSpec.layout
        rates, first = spec.drop_paths(), [0, *accumulate(spec.depths)]
        self.patch_embed = Stem(spec.channels)
        self.levels: Sequence[Level] = nn.ModuleList(  # type: ignore[assignment]
            Level(spec, level, rates[first[level] : first[level + 1]], last=level == built - 1)
            for level in range(built)
        )
        self.apply(_initialise)
        if pretrained and spec.weights:
            fitted, _ = fit_pretraining(read_weights(spec.weights), self.state_dict())
            self.load_state_dict(fitted, strict=False)

    @property
    def stem_distance(self) -> int:
        """The stem's distance from the end, see `layer_ids`."""
        return sum(self.spec.depths) + 1

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps (B, C_i, H / s, W / s) rounded up, s in `strides`."""
        x, maps = self.patch_embed(images), []
        for stride, level in zip(STRIDES, self.levels, strict=False):
            feature, x = level(x)
            if stride in self.strides:
                feature = feature.permute(0, 3, 1, 2)
                maps.append(feature.contiguous() if self.contiguous else feature)
        return maps

    def part_of(self, name: str) -> str:
        """All of it is one row of the cost table."""
        del name
        return "backbone"

    def layer_ids(self, *, exact: bool = False) -> dict[str, float]:
        """Parameter name -> distance from the end, for lr * layer_decay ** distance: the last block at 1, the stem at blocks + 1.

        What follows a level's blocks goes with the next level's first block.

        Args:
            exact: False as published, by a slip of the official constructor: the last level's norm goes with the level before it, and
                norm k inside level 2 with that level's block k. True: each with the block that it follows (the last at 0).
        """
        return {
            name: self.stem_distance - self._layer(name.split("."), exact=exact) for name, _ in self.named_parameters()
        }

    def _layer(self, words: Sequence[str], *, exact: bool) -> int:
        """The number of the layer that a parameter belongs to, from the front: 0 the stem, 1 the first block."""
        depths = self.spec.depths
        if words[0] == "patch_embed":
            return 0
        level, kind = int(words[1]), words[2]
        before = sum(depths[:level])
        if kind == "blocks":
            return before + int(words[3]) + 1
        if kind == "post_norms":
            return before + 1 + (self.spec.post_norm_blocks[int(words[3])] if exact else int(words[3]))
        after = level if exact else min(level, len(depths) - 2)
        return sum(depths[: after + 1]) + 1


class Stem(nn.Module):
    """Two convolutions of stride 2; (B, 3, H, W) -> (B, H / 4, W / 4, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels // 2, 3, stride=2, padding=1)
        self.norm1 = nn.Sequential(ToChannelsLast(), _norm(channels // 2))
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        self.norm2 = nn.Sequential(ToChannelsLast(), _norm(channels))

    def forward(self, images: Tensor) -> Tensor:
        """Images to a map."""
        x_BHWC = self.act(self.norm1(self.conv1(images)))
        return self.norm2(self.conv2(x_BHWC.permute(0, 3, 1, 2)))


class Downsample(nn.Module):
    """(B, H, W, C) -> (B, H / 2, W / 2, 2 C), rounded up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm = nn.Sequential(ToChannelsLast(), _norm(2 * channels))

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Half as large, twice as wide."""
        return self.norm(self.conv(x_BHWC.permute(0, 3, 1, 2)))


class Level(nn.Module):
    """The blocks of one stride, norms between some of them (level 2 of -H and -G), and the norm of what leaves them.

    Args:
        spec: The network's.
        level: 0 to 3.
        rates: Drop path of every block.
        last: Nothing follows.
    """

    def __init__(self, spec: InternImageForm, level: int, rates: Sequence[float], *, last: bool) -> None:
        super().__init__()
        channels = spec.channels * 2**level
        self.checkpointing = spec.checkpointing
        self.blocks: Sequence[Block] = nn.ModuleList(Block(spec, level, rate) for rate in rates)  # type: ignore[assignment]
        self.norm_after = spec.post_norm_blocks if level == 2 else ()
        self.post_norms = nn.ModuleList(nn.Sequential(_norm(channels)) for _ in self.norm_after)
        # without it a post-norm network gives its raw stream of residuals
        self.norm = nn.Sequential(_norm(channels)) if spec.norms != "post" or spec.center_feature_scale else None
        self.downsample = None if last else Downsample(channels)

    def forward(self, x_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """The level's map, of the same shape, and what the next level begins with."""
        for index, block in enumerate(self.blocks):
            again = self.checkpointing and self.training
            x_BHWC = checkpoint(block, x_BHWC, use_reentrant=False) if again else block(x_BHWC)
            if index in self.norm_after:
                x_BHWC = self.post_norms[self.norm_after.index(index)](x_BHWC)
        if self.norm is not None:
            x_BHWC = self.norm(x_BHWC)
        return x_BHWC, x_BHWC if self.downsample is None else self.downsample(x_BHWC)


class Block(nn.Module):
    """DCNv3 and an MLP, each with a residual.

    Norms stand in front of both ("pre": T), behind both ("post": S to XL, and G), or in front and behind ("res_post": H).
    """

    def __init__(self, spec: InternImageForm, level: int, rate: float) -> None:
        super().__init__()
        channels = spec.channels * 2**level
        self.norms, self.drop_path = spec.norms, DropPath(rate)
        self.norm1, self.norm2 = nn.Sequential(_norm(channels)), nn.Sequential(_norm(channels))
        self.dcn = DCNv3(
            channels,
            groups=spec.groups[level],
            dw_kernel_size=spec.dw_kernel_size,
            offset_scale=spec.offset_scale,
            center_feature_scale=spec.center_feature_scale,
        )
        self.mlp = Mlp(channels, int(channels * spec.mlp_ratio))
        self.gamma1 = self.gamma2 = self.res_post_norm1 = self.res_post_norm2 = None
        if spec.layer_scale is not None:
            self.gamma1, self.gamma2 = (nn.Parameter(torch.full((channels,), spec.layer_scale)) for _ in range(2))
        if spec.norms == "res_post":
            self.res_post_norm1, self.res_post_norm2 = (nn.Sequential(_norm(channels)) for _ in range(2))

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """The same shape."""
        x_BHWC = x_BHWC + self._change(x_BHWC, self.norm1, self.dcn, self.res_post_norm1, self.gamma1)
        return x_BHWC + self._change(x_BHWC, self.norm2, self.mlp, self.res_post_norm2, self.gamma2)

    def _change(
        self, x: Tensor, norm: nn.Module, layer: nn.Module, after: nn.Module | None, scale: Tensor | None
    ) -> Tensor:
        """What a layer adds to the stream of residuals."""
        change = norm(layer(x)) if self.norms == "post" else layer(norm(x))
        if after is not None:
            change = after(change)
        return self.drop_path(change if scale is None else change * scale)


def _norm(channels: int) -> nn.LayerNorm:
    return nn.LayerNorm(channels, eps=1e-6)


def _initialise(module: nn.Module) -> None:
    """Truncated normal linear layers, but DCNv3's as published; all else as PyTorch draws it. Called for parts before the whole."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, DCNv3):
        module.reset_parameters()
