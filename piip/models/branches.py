"""A branch: one timm Vision Transformer that sees one image size, without class token and final norm."""

import difflib
from collections.abc import Sequence

import timm
import torch.nn.functional as F
from timm.layers import DropPath, LayerScale
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from piip.models import pico  # registers pico_* with timm
from piip.models.pico import WeightsError
from piip.spec import BranchSpec

# B batch, H W grid height and width, L = H * W tokens, C channels

Grid = tuple[int, int]
"""Rows and columns of a token map."""


class Branch(nn.Module):
    """Image -> tokens, a few blocks at a time, so that interactions can come between them.

    Takes over the parts of a timm ViT and runs its blocks the way detection does: no class token, position embedding resized to
    the grid at hand, attention in windows or over the whole map, no final norm.

    Args:
        vit: The network whose patch embedding, position embedding and blocks become this branch's.
        window: Side of the attention windows in patches, None for global attention; a sequence gives one per block.
        drop_path: Stochastic depth of every block. Constant over depth as in the published vit_models (timm's rule grows linearly).
    """

    def __init__(
        self, vit: VisionTransformer, *, window: int | Sequence[int | None] | None = None, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.embed_dim = vit.embed_dim
        self.depth = len(vit.blocks)
        self.patch_size = vit.patch_embed.patch_size[0]
        self.windows = [window] * self.depth if window is None or isinstance(window, int) else list(window)
        if len(self.windows) != self.depth:
            raise ValueError(
                f"{len(self.windows)} windows for {self.depth} blocks: give one window for all, or one per block"
            )

        self.patch_embed = vit.patch_embed
        position = vit.pos_embed
        assert position is not None
        # only patches have positions here: the class token's row, where there is one, is left out
        self.pos_embed = nn.Parameter(position.detach()[:, -vit.patch_embed.num_patches :].clone())
        self.norm_pre = vit.norm_pre
        self.blocks: Sequence[Block] = nn.ModuleList(vit.blocks)  # type: ignore[assignment]
        self.num_heads: int = self.blocks[0].attn.num_heads  # type: ignore[assignment]
        for block in self.blocks:
            block.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
            block.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()
            if isinstance(block.ls1, nn.Identity):
                # the published code gives every branch a layer scale; ones where the pretraining had none (DeiT-1)
                block.ls1 = LayerScale(self.embed_dim, init_values=1.0)
                block.ls2 = LayerScale(self.embed_dim, init_values=1.0)

    def grid(self, image: Tensor) -> Grid:
        """Rows and columns of the token map; trailing pixels that do not fill a patch are dropped."""
        return image.shape[-2] // self.patch_size, image.shape[-1] // self.patch_size

    def embed(self, image: Tensor) -> Tensor:
        """(B, 3, h, w) -> tokens (B, H*W, C) with positions, before the first block."""
        # `proj` alone: timm's PatchEmbed.forward refuses sides that are no multiple of the patch
        rows, columns = self.grid(image)
        map_BCHW = self.patch_embed.proj(image[..., : rows * self.patch_size, : columns * self.patch_size])
        # contiguous, or every norm of the residual stream copies it again
        tokens_BLC = self.patch_embed.norm(map_BCHW.flatten(2).transpose(1, 2).contiguous())
        return self.norm_pre(tokens_BLC + self._positions((rows, columns)))

    def run(self, tokens: Tensor, grid: Grid, start: int, stop: int) -> Tensor:
        """Blocks start..stop-1 on tokens (B, H*W, C)."""
        for block, window in zip(self.blocks[start:stop], self.windows[start:stop], strict=True):
            normed = block.norm1(tokens)
            attended = block.attn(normed) if window is None else windowed(block.attn, normed, grid, window)
            tokens = tokens + block.drop_path1(block.ls1(attended))
            tokens = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
        return tokens

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, h, w) -> tokens (B, H*W, C) after the last block."""
        return self.run(self.embed(image), self.grid(image), 0, self.depth)

    def _positions(self, grid: Grid) -> Tensor:
        side = int(self.pos_embed.shape[1] ** 0.5)
        if grid == (side, side):
            return self.pos_embed
        map_1CHW = self.pos_embed.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
        map_1CHW = F.interpolate(map_1CHW, size=grid, mode="bicubic", align_corners=False)
        return map_1CHW.flatten(2).transpose(1, 2)


def windowed(attention: nn.Module, tokens: Tensor, grid: Grid, window: int) -> Tensor:
    """Self-attention inside non-overlapping window x window squares.

    The normed map is zero padded, right and bottom, *before* the qkv layer, and padded tokens take part in the softmax: what the
    published models were trained with (flash path of vit_models). Windows are folded into the batch, so timm's attention and the
    kernel it chooses are used as they are.

    Shape:
        tokens: (B, H*W, C) after the norm; returns the same.
    """
    H, W = grid
    B, _, C = tokens.shape
    map_BHWC = F.pad(tokens.unflatten(1, grid), (0, 0, 0, -W % window, 0, -H % window))
    rows, columns = map_BHWC.shape[1] // window, map_BHWC.shape[2] // window
    folded = map_BHWC.view(B, rows, window, columns, window, C).transpose(2, 3).reshape(-1, window * window, C)
    folded = attention(folded).view(B, rows, columns, window, window, C)
    map_BHWC = folded.transpose(2, 3).reshape(B, rows * window, columns * window, C)
    return map_BHWC[:, :H, :W].flatten(1, 2)


def build_branch(spec: BranchSpec, pretrained: bool = True) -> Branch:
    """The branch a spec describes, from its timm weights when both `spec.pretrained` and `pretrained` say so.

    Raises:
        ValueError: timm has no such ViT.
        WeightsError: The pretrained weights cannot be had.
    """
    name = spec.arch.split(".")[0]
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models("*patch16*") + list(pico.GEOMETRY), n=1)
        raise ValueError(f"timm {timm.__version__} has no network {name!r} (branch {spec.arch!r}). Nearest: {close}")
    pretrained = pretrained and spec.pretrained
    if pretrained:
        pico.require_weights(spec.arch)
    try:
        vit = timm.create_model(spec.arch, pretrained=pretrained, num_classes=0)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise WeightsError(
            f"no pretrained weights for branch {spec.arch!r}: {type(error).__name__}: {error}\n"
            "They come from the Hugging Face hub: give this machine a network or a filled HF_HOME cache, "
            "or start from random weights with model.backbone.branches.N.pretrained=false"
        ) from error
    if not isinstance(vit, VisionTransformer) or vit.pos_embed is None or vit.num_reg_tokens:
        raise ValueError(f"branch {spec.arch!r} is no plain ViT with learned positions, as deit3_small_patch16_224 is")
    return Branch(vit, window=spec.window, drop_path=spec.drop_path)
