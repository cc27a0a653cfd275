"""A branch: one timm Vision Transformer that sees one image size, without final norm."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from timm.layers import DropPath, LayerScale
from timm.models import beit
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from piip.models.branches import uniperceiver
from piip.models.branches.attention import is_bare, take_over_beit
from piip.models.branches.windows import window_attention
from piip.weights.resizing import Grid, resized_positions

# B batch, H W grid height and width, L = H * W tokens, C channels


class Branch(nn.Module):
    """Image -> tokens, a few blocks at a time, so that interactions can come between them.

    Takes over the parts of a timm ViT and runs its blocks the way detection does: no class token unless asked for, position
    embedding resized to the grid at hand, attention in windows or over the whole map, no final norm.

    Args:
        vit: The network whose patch embedding, position embedding and blocks become this branch's.
        window: Side of the attention windows in patches, None for global attention; a sequence is repeated over the blocks.
        window_padding: Zeros come before or after the qkv layer, see attention.py.
        drop_path: Stochastic depth. Constant over the blocks as in the published vit_models.
        linear: `drop_path` grows linearly from 0 at the first block instead, as in all other families.
        layer_scale: Initial value where the blocks have none; None leaves them without.
        class_token: A class token without position goes through the blocks in front of the patches.
        class_position: Keep a class token's row of the positions, though nothing reads it, as the official InternViT class does.
        num_classes: Keep the final norm and a linear head of so many classes, for a classifier to read; None keeps neither.
        checkpointing: Recompute activations in the backward pass.

    Raises:
        ValueError: Windows or a class token that this network cannot have.
    """

    def __init__(
        self,
        vit: VisionTransformer | beit.Beit,
        *,
        window: int | Sequence[int | None] | None = None,
        window_padding: str = "before_qkv",
        drop_path: float = 0.0,
        linear: bool = False,
        layer_scale: float | None = 1.0,
        class_token: bool = False,
        class_position: bool = False,
        num_classes: int | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.embed_dim = vit.embed_dim
        self.depth = len(vit.blocks)
        self.patch_size = int(vit.patch_embed.patch_size[0])
        self.dims, self.strides = [self.embed_dim] * self.depth, [self.patch_size] * self.depth
        self.prefix = int(class_token)
        self.windows = _per_block(window, self.depth)
        self.checkpointing = checkpointing
        if class_token and (any(self.windows) or isinstance(vit, beit.Beit)):
            raise ValueError(
                f"a class token sees all patches: window must be None, not {window}, and the network no BEiT"
            )

        self.patch_embed = vit.patch_embed
        self.pos_embed = _positions(vit, class_position)
        self.frame_embed = vit.frame_embed if isinstance(vit, uniperceiver.UniPerceiver) else None
        self.cls_token = None
        if class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dim)) if vit.cls_token is None else vit.cls_token
        self.norm_pre = vit.norm_pre if isinstance(vit, VisionTransformer) else nn.Identity()
        self.blocks: Sequence[Block] = nn.ModuleList(vit.blocks)  # type: ignore[assignment]
        self.num_heads: int = self.blocks[0].attn.num_heads  # type: ignore[assignment]
        if isinstance(vit, beit.Beit):
            take_over_beit(self.blocks, self.windows)
        self.window_padding = window_padding
        self.set_windows(exact=True)
        if window_padding == "after_qkv" and not is_bare(self.blocks[0].attn):
            raise ValueError(
                "window_padding 'after_qkv' is for attention without norms, gate and biases of its own (the official DeiT class) only"
            )

        _fit_blocks(self.blocks, self.embed_dim, drop_path, linear=linear, layer_scale=layer_scale)
        self.norm, self.head = None, None
        if num_classes is not None:
            self.norm = vit.fc_norm if isinstance(vit.norm, nn.Identity) else vit.norm
            self.head = vit.head

    def release_head(self) -> tuple[nn.Module, nn.Module]:
        """Gives the final norm and the classifier away, to the head that reads them."""
        assert self.norm is not None, "built without num_classes"
        assert self.head is not None
        norm, head = self.norm, self.head
        self.norm, self.head = None, None
        return norm, head

    def set_windows(self, *, exact: bool, together: bool = False) -> None:
        """Window attention without padded work (the default), or as published: equal but for rounding. See windows.py."""
        self.windowed = window_attention(exact=exact, padding=self.window_padding, together=together)

    def shares(self, count: int) -> list[tuple[int, int]]:
        """Blocks start..stop-1 for each of `count` interactions.

        Raises:
            ValueError: More interactions than blocks.
        """
        return block_ranges(self.depth, count)

    def grid(self, image: Tensor) -> Grid:
        """Rows and columns of the token map; trailing pixels that do not fill a patch are dropped."""
        return image.shape[-2] // self.patch_size, image.shape[-1] // self.patch_size

    def embed(self, image: Tensor) -> Tensor:
        """(B, 3, h, w) -> tokens (B, prefix + H*W, C) with positions, before the first block."""
        # `proj` alone: timm's PatchEmbed.forward refuses sides that are no multiple of the patch
        rows, columns = self.grid(image)
        map_BCHW = self.patch_embed.proj(image[..., : rows * self.patch_size, : columns * self.patch_size])
        # contiguous, or every norm of the residual stream copies it again
        tokens_BLC = self.patch_embed.norm(map_BCHW.flatten(2).transpose(1, 2).contiguous())
        if self.pos_embed is not None:
            tokens_BLC = tokens_BLC + self._positions((rows, columns))
        if self.frame_embed is not None:
            tokens_BLC = tokens_BLC + self.frame_embed[0]
        if self.cls_token is not None:
            tokens_BLC = torch.cat([self.cls_token.expand(tokens_BLC.shape[0], -1, -1), tokens_BLC], dim=1)
        return self.norm_pre(tokens_BLC)

    def run(self, tokens: Tensor, grid: Grid, start: int, stop: int) -> tuple[Tensor, Grid]:
        """Blocks start..stop-1 on tokens (B, prefix + H*W, C); the tokens after them and their grid, which stays the same."""
        for block, window in zip(self.blocks[start:stop], self.windows[start:stop], strict=True):
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(self._block, block, tokens, grid, window, use_reentrant=False)  # type: ignore[assignment]
            else:
                tokens = self._block(block, tokens, grid, window)
        return tokens, grid

    def _block(self, block: Block, tokens: Tensor, grid: Grid, window: int | None) -> Tensor:
        normed = block.norm1(tokens)
        attended = block.attn(normed) if window is None else self.windowed(block.attn, normed, grid, window)  # type: ignore[arg-type]
        tokens = tokens + block.drop_path1(block.ls1(attended))
        return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, h, w) -> tokens (B, prefix + H*W, C) after the last block."""
        return self.run(self.embed(image), self.grid(image), 0, self.depth)[0]

    def _positions(self, grid: Grid) -> Tensor:
        assert self.pos_embed is not None
        rows = int(self.pos_embed.shape[1] ** 0.5) ** 2  # without a class token's row: a square
        return resized_positions(self.pos_embed[:, -rows:], grid)


def _per_block(window: int | Sequence[int | None] | None, depth: int) -> list[int | None]:
    if window is None or isinstance(window, int):
        return [window] * depth
    if not window or depth % len(window):
        raise ValueError(
            f"{len(window)} windows do not repeat evenly over {depth} blocks: give one, one per block, or a pattern such as (14, 14, null)"
        )
    return list(window) * (depth // len(window))


def _positions(vit: VisionTransformer | beit.Beit, class_position: bool) -> nn.Parameter | None:
    """Positions of the patches; a class token's row in front where `class_position` asks for it."""
    if vit.pos_embed is None:
        return None
    position, rows = vit.pos_embed.detach(), vit.patch_embed.num_patches
    patches = position[:, -rows:]
    if not class_position:
        return nn.Parameter(patches.clone())
    first = position[:, :1] if position.shape[1] > rows else torch.zeros_like(position[:, :1])
    return nn.Parameter(torch.cat([first, patches], dim=1))


def _fit_blocks(
    blocks: Sequence[Block], dim: int, drop_path: float, *, linear: bool, layer_scale: float | None
) -> None:
    """Stochastic depth of every block, and a layer scale where the pretraining had none (DeiT-1, MAE, AugReg)."""
    rates = torch.linspace(0, drop_path, len(blocks), device="cpu").tolist() if linear else [drop_path] * len(blocks)
    for block, rate in zip(blocks, rates, strict=True):
        block.drop_path1 = DropPath(rate) if rate else nn.Identity()
        block.drop_path2 = DropPath(rate) if rate else nn.Identity()
        if isinstance(block.ls1, nn.Identity) and layer_scale is not None:
            block.ls1, block.ls2 = LayerScale(dim, init_values=layer_scale), LayerScale(dim, init_values=layer_scale)


def block_ranges(depth: int, count: int) -> list[tuple[int, int]]:
    """`depth` blocks in `count` shares, the later ones larger where they cannot be equal: 32 in 12 is 4 x 2, then 8 x 3 (published).

    Raises:
        ValueError: More shares than blocks.
    """
    if count > depth:
        raise ValueError(
            f"interaction.count {count} asks for more shares than a branch of {depth} blocks has: at most {depth}"
        )
    small, larger = divmod(depth, count)
    ends = [0]
    for share in range(count):
        ends.append(ends[-1] + small + (share >= count - larger))
    return list(pairwise(ends))
