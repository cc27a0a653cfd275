"""A ConvNeXt as a branch: its blocks run in shares as a ViT's do, with maps that shrink and widen on the way."""

from itertools import pairwise

import torch
from timm.layers import DropPath
from timm.models.convnext import ConvNeXt, ConvNeXtBlock, ConvNeXtStage
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from piip.weights.resizing import Grid


class ConvNeXtBranch(nn.Module):
    """Image -> tokens, a few blocks at a time. Downsampling layers count as blocks, as in the published index ranges.

    Args:
        net: The timm network whose stem, downsampling layers and blocks become this branch's.
        drop_path: Stochastic depth of the last block; grows linearly from 0 at the first one.
        checkpointing: Recompute activations in the backward pass.
    """

    prefix = 0

    def __init__(self, net: ConvNeXt, *, drop_path: float = 0.0, checkpointing: bool = False) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.stem, self.stages = net.stem, net.stages
        # a downsampling layer counts as a block
        self.lengths = [len(_layers(stage)) for stage in net.stages.children()]
        self.depth = sum(self.lengths)
        info = [
            (stage["num_chs"], stage["reduction"], n) for stage, n in zip(net.feature_info, self.lengths, strict=True)
        ]
        self.dims = [channels for channels, _, count in info for _ in range(count)]
        self.strides = [stride for _, stride, count in info for _ in range(count)]
        self.embed_dim, self.patch_size = self.dims[-1], self.strides[0]
        layers = [block for block in self.blocks if isinstance(block, ConvNeXtBlock)]
        for layer, rate in zip(layers, torch.linspace(0, drop_path, len(layers), device="cpu").tolist(), strict=True):
            layer.drop_path = DropPath(rate) if rate else nn.Identity()

    @property
    def blocks(self) -> list[nn.Module]:
        """Downsampling layers and blocks in the order they run."""
        return [layer for stage in self.stages.children() for layer in _layers(stage)]

    def shares(self, count: int) -> list[tuple[int, int]]:
        """Blocks start..stop-1 for each of `count` >= 4 interactions: stages 1, 2 and 4 whole, the third in count - 3 shares.

        With 12: ConvNeXt-T 3, 4, 2, 1 x 8, 4 and ConvNeXt-S and -B 3, 4, 4, 3 x 8, 4 blocks (published).

        Raises:
            ValueError: Fewer interactions than stages, or more than there are blocks.
        """
        third = self.lengths[2] - 1
        if not 4 <= count <= third + 3:
            raise ValueError(
                f"interaction.count {count}: this ConvNeXt branch takes 4 to {third + 3} (its third stage is shared out)"
            )
        small, larger = divmod(third, count - 3)
        middle = [small + (share < larger) for share in range(count - 3)]
        middle[0] += 1  # the downsampling layer
        ends = [0]
        for share in (self.lengths[0], self.lengths[1], *middle, self.lengths[3]):
            ends.append(ends[-1] + share)
        return list(pairwise(ends))

    def grid(self, image: Tensor) -> Grid:
        """Rows and columns of the stem's map."""
        return image.shape[-2] // self.patch_size, image.shape[-1] // self.patch_size

    def embed(self, image: Tensor) -> Tensor:
        """(B, 3, h, w) -> tokens (B, H*W, C) of the stem."""
        return self.stem(image).flatten(2).transpose(1, 2)

    def run(self, tokens: Tensor, grid: Grid, start: int, stop: int) -> tuple[Tensor, Grid]:
        """Blocks start..stop-1 on tokens (B, H*W, C); the tokens after them and their grid."""
        feature = tokens.transpose(1, 2).unflatten(2, grid)
        for block in self.blocks[start:stop]:
            again = self.checkpointing and torch.is_grad_enabled()
            feature = checkpoint(block, feature, use_reentrant=False) if again else block(feature)
        return feature.flatten(2).transpose(1, 2), (feature.shape[-2], feature.shape[-1])

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, h, w) -> tokens (B, H*W, C) after the last block, at stride 32."""
        return self.run(self.embed(image), self.grid(image), 0, self.depth)[0]


def _layers(stage: nn.Module) -> list[nn.Module]:
    """The downsampling layer, where there is one, and the blocks of a timm stage."""
    assert isinstance(stage, ConvNeXtStage)
    return [layer for layer in (stage.downsample, *stage.blocks) if not isinstance(layer, nn.Identity)]
