"""PIIP: parameter-inverted image pyramid networks, any number of branches."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from piip.models.branches import Branch, Grid
from piip.models.interaction import InteractionUnit, init_linear_and_conv
from piip.spec import PIIPSpec

STRIDES = (4, 8, 16, 32)


class PIIP(nn.Module):
    """Image -> four maps at strides 4, 8, 16, 32.

    Every branch sees the image at its own resolution. After each share of the blocks, neighbouring branches exchange features;
    at the end all are merged on the grid of the first branch (the largest image) with the channels of the last (the largest network).

    Args:
        branches: From high to low resolution, that is from the smallest to the largest network.
        spec: Resolutions (used as ratios to the first one) and interactions.
    """

    def __init__(self, branches: Sequence[Branch], spec: PIIPSpec) -> None:
        super().__init__()
        assert len(branches) == len(spec.branches), f"{len(branches)} branches for a spec of {len(spec.branches)}"
        count = spec.interaction.count if len(branches) > 1 else 0
        shallow = min(branches, key=lambda branch: branch.depth)
        if count > shallow.depth:
            raise ValueError(
                f"interaction.count {count} asks for more shares than the shallowest branch has blocks: at most {shallow.depth}"
            )
        self.branches: Sequence[Branch] = nn.ModuleList(branches)  # type: ignore[assignment]
        self.ratios = [branch.resolution / spec.resolution for branch in spec.branches]
        self.schedules = [block_ranges(branch.depth, max(count, 1)) for branch in branches]

        dims = [branch.embed_dim for branch in branches]
        pairs = list(pairwise(dims))
        self.interactions: Sequence[Sequence[InteractionUnit]] = nn.ModuleList(  # type: ignore[assignment]
            nn.ModuleList(InteractionUnit(high, low, spec.interaction) for high, low in pairs) for _ in range(count)
        )
        width = dims[-1]
        # one branch has nothing to merge: the plain ViT baseline with a simple feature pyramid
        self.merge = Merge(dims, width) if len(dims) > 1 else None
        self.pyramid = SimplePyramid(width, branches[0].patch_size, group_norm=len(dims) > 1)
        self.out_channels = [width] * len(STRIDES)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> four maps (B, C, H/s, W/s), s = 4, 8, 16, 32."""
        return self.fuse(*self.branch_tokens(images))

    def fuse(self, tokens: Sequence[Tensor], grids: Sequence[Grid]) -> list[Tensor]:
        """Tokens (B, H_i*W_i, C_i) of every branch -> the four maps."""
        maps = [t.transpose(1, 2).unflatten(2, grid) for t, grid in zip(tokens, grids, strict=True)]
        return self.pyramid(self.merge(maps) if self.merge else maps[0])

    def image_pyramid(self, images: Tensor) -> list[Tensor]:
        """The input at every branch's resolution.

        By scale factor, as published: where side * ratio is no integer, this samples other places than resizing to the same size.
        """
        return [
            images if ratio == 1 else F.interpolate(images, scale_factor=ratio, mode="bilinear", align_corners=False)
            for ratio in self.ratios
        ]

    def branch_tokens(self, images: Tensor) -> tuple[list[Tensor], list[Grid]]:
        """Tokens (B, H_i*W_i, C_i) of every branch after all blocks and interactions, and their grids."""
        pyramid = self.image_pyramid(images)
        grids = [branch.grid(image) for branch, image in zip(self.branches, pyramid, strict=True)]
        tokens = [branch.embed(image) for branch, image in zip(self.branches, pyramid, strict=True)]
        for step in range(len(self.schedules[0])):
            for i, branch in enumerate(self.branches):
                tokens[i] = branch.run(tokens[i], grids[i], *self.schedules[i][step])
            if not self.interactions:
                continue
            # highest resolution first: the next pair sees tokens the one before has updated
            for i, unit in enumerate(self.interactions[step]):
                tokens[i], tokens[i + 1] = unit(tokens[i], tokens[i + 1], grids[i], grids[i + 1])
        return tokens, grids

    def layer_ids(self) -> dict[str, int]:
        """Parameter name -> distance from the end, for lr * layer_decay ** distance.

        The last block of a branch is at 1, its embedding at depth + 1, everything outside branches at 0. A shallower branch takes
        strides through the depth of the last one, as published: with S/B/L of 12/12/24 blocks, S and B go in steps of 2.
        """
        deepest = self.branches[-1].depth
        ids = {}
        for name, _ in self.named_parameters():
            match name.split("."):
                case ["branches", i, "blocks", j, *_]:
                    ids[name] = deepest + 1 - round((int(j) + 1) * deepest / self.branches[int(i)].depth)
                case ["branches", *_]:
                    ids[name] = deepest + 1
                case _:
                    ids[name] = 0
        return ids


class Merge(nn.Module):
    """Every branch's map through two 3x3 convolutions, resized to the first one's grid, in a weighted sum."""

    def __init__(self, dims: Sequence[int], width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(*_conv_norm_relu(dim, width), *_conv_norm_relu(width, width)) for dim in dims
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
                merged = F.interpolate(merged.float(), size=size, mode="bilinear", align_corners=False)
            total = total + weight * merged
        return total


class SimplePyramid(nn.ModuleList):
    """One map at stride `patch_size` -> maps at strides 4, 8, 16, 32 of the same width.

    Args:
        width: Channels.
        patch_size: Stride of the input: a power of two from 4 to 32.
        group_norm: GroupNorm as PIIP has it between two upsamplings, else LayerNorm over channels as the ViT baselines.
    """

    def __init__(self, width: int, patch_size: int, *, group_norm: bool = True) -> None:
        if patch_size not in STRIDES:
            raise ValueError(f"the first branch has patches of {patch_size} pixels; the pyramid needs one of {STRIDES}")
        levels = []
        for stride in STRIDES:
            layers: list[nn.Module] = []
            for doubling in range(int(math.log2(patch_size / stride)) if stride < patch_size else 0):
                if doubling:
                    layers += [_group_norm(width) if group_norm else LayerNorm2d(width), nn.GELU()]
                layers.append(nn.ConvTranspose2d(width, width, 2, stride=2))
            if stride > patch_size:
                layers.append(nn.MaxPool2d(stride // patch_size))
            levels.append(nn.Sequential(*layers))
        super().__init__(levels)
        self.apply(init_linear_and_conv)

    def forward(self, feature: Tensor) -> list[Tensor]:
        """(B, width, H, W) -> the four maps, finest first."""
        return [level(feature) for level in self]


def block_ranges(depth: int, count: int) -> list[tuple[int, int]]:
    """`depth` blocks in `count` shares, the later ones larger where they cannot be equal: 32 in 12 is 4 x 2, then 8 x 3 (published)."""
    small, larger = divmod(depth, count)
    ends = [0]
    for share in range(count):
        ends.append(ends[-1] + small + (share >= count - larger))
    return list(pairwise(ends))


def _conv_norm_relu(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), _group_norm(out_channels), nn.ReLU()]


def _group_norm(channels: int) -> nn.GroupNorm:
    """32 groups as published, fewer where a narrow network's width is no multiple of 32."""
    return nn.GroupNorm(math.gcd(32, channels), channels)
