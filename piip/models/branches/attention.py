"""Self-attention inside a branch: windows, and the two kinds that timm's plain one does not cover (BEiT's, InternViT's)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from timm.layers import Attention, LayerScale, gen_relative_position_index
from timm.models import beit
from torch import Tensor, nn

from piip.weights.resizing import Grid, resize_relative_positions

# B batch, H W grid height and width, L = H * W tokens, C channels, N heads, D channels per head


def dot_product(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, *, fused: bool) -> Tensor:
    """Scaled dot-product attention of (..., L, D) over (..., K, D), `bias` added to the logits.

    Args:
        query: (..., L, D), value and result alike.
        key: (..., K, D).
        value: (..., K, D).
        bias: Broadcast to (..., L, K).
        fused: By PyTorch's kernel; else, as in timm, by two products and a softmax, which hold all logits. On the CPU in bf16 the
            kernel's backward pass takes two to five times as long as theirs.
    """
    if fused:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(dim=-1).to(value.dtype) @ value


def windowed(attention: nn.Module, tokens: Tensor, grid: Grid, window: int) -> Tensor:
    """Self-attention inside non-overlapping window x window squares.

    The normed map is zero padded, right and bottom, *before* the qkv layer, and padded tokens take part in the softmax: what the
    published models were trained with (flash path of vit_models; InternViT, BEiT and Uni-Perceiver always). Windows are folded
    into the batch, so timm's attention and the kernel it chooses are used as they are.

    Shape:
        tokens: (B, H*W, C) after the norm; returns the same.
    """
    folded, padded = fold(tokens, grid, window)
    return unfold(attention(folded), grid, padded, window)


def windowed_after_qkv(attention: Attention, tokens: Tensor, grid: Grid, window: int) -> Tensor:
    """The same with the padding *after* the qkv layer: padded tokens have keys and values of zero instead of the layer's bias.

    What the official DeiT class does without flash-attn; other numbers, wherever a grid is no multiple of the window. For attention
    without norms and gate (`is_bare`).
    """
    folded, padded = fold(attention.qkv(tokens), grid, window)
    query, key, value = folded.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    attended_BNLD = dot_product(query, key, value, fused=attention.fused_attn)
    return attention.proj(unfold(attended_BNLD.transpose(1, 2).flatten(2), grid, padded, window))


def is_bare(attention: nn.Module) -> bool:
    """Whether an attention is qkv, softmax and output layer, and nothing else: the official DeiT class."""
    if (
        type(attention) is not Attention or getattr(attention, "gate", None) is not None
    ):  # timm before 1.0.25 has no gates
        return False
    return all(isinstance(norm, nn.Identity) for norm in (attention.q_norm, attention.k_norm, attention.norm))


def put_out(attention: nn.Module, attended: Tensor, tokens: Tensor) -> Tensor:
    """What follows the weighted sums in timm's attentions, token by token: norm (BEiT-3), gate, output layer.

    Shape:
        attended: (..., L, N * D).
        tokens: (..., L, C) that queries were made of; returns the same.
    """
    if isinstance(attention, Attention):
        attended = attention.norm(attended)
        gate = getattr(attention, "gate", None)
        attended = attended if gate is None else attended * gate(tokens).sigmoid()
    return attention.proj(attended)  # type: ignore[operator]


def fold(tokens: Tensor, grid: Grid, window: int) -> tuple[Tensor, Grid]:
    """(B, H*W, C) -> (B * windows, window * window, C), zero padded to whole windows, and the padded grid."""
    H, W = grid
    B, _, C = tokens.shape
    map_BHWC = F.pad(tokens.unflatten(1, grid), (0, 0, 0, -W % window, 0, -H % window))
    rows, columns = map_BHWC.shape[1] // window, map_BHWC.shape[2] // window
    folded = map_BHWC.view(B, rows, window, columns, window, C).transpose(2, 3).reshape(-1, window * window, C)
    return folded, (rows * window, columns * window)


def unfold(folded: Tensor, grid: Grid, padded: Grid, window: int) -> Tensor:
    """The inverse of `fold`, without the padding."""
    rows, columns = padded[0] // window, padded[1] // window
    map_BRCwwC = folded.view(-1, rows, columns, window, window, folded.shape[-1])
    map_BHWC = map_BRCwwC.transpose(2, 3).reshape(-1, rows * window, columns * window, folded.shape[-1])
    return map_BHWC[:, : grid[0], : grid[1]].flatten(1, 2)


class BiasedAttention(beit.Attention):
    """BEiT's attention inside one window: a learned bias for every pair of relative positions, none for a class token.

    Takes over the weights of timm's; the table of relative positions is resized to the window.

    Args:
        attention: With its own window and the three extra rows of a class token, which are left out.
        window: Side in patches.

    Shape:
        x: (B, window * window, C); returns the same.
    """

    def __init__(self, attention: beit.Attention, window: int) -> None:
        table = attention.relative_position_bias_table
        assert table is not None
        dim, heads = attention.proj.out_features, attention.num_heads
        super().__init__(dim, heads, qkv_bias=attention.q_bias is not None)
        self.qkv, self.proj, self.q_bias, self.v_bias = (
            attention.qkv,
            attention.proj,
            attention.q_bias,
            attention.v_bias,
        )
        self.window_size = (window, window)
        self.relative_position_bias_table = nn.Parameter(resize_relative_positions(table.detach()[:-3], window))
        del self.relative_position_index  # None, which a buffer must not replace
        self.register_buffer("relative_position_index", gen_relative_position_index(self.window_size), persistent=False)

    def _get_rel_pos_bias(self) -> Tensor:
        table, index = self.relative_position_bias_table, self.relative_position_index
        assert table is not None
        assert index is not None
        return table[index.flatten()].unflatten(0, index.shape).permute(2, 0, 1)[None].contiguous()

    def _init_buffers(self) -> None:
        if self.k_bias is not None:
            self.k_bias.zero_()
        if self.relative_position_index is not None:
            assert self.window_size is not None
            self.relative_position_index.copy_(gen_relative_position_index(self.window_size))


def take_over_beit(blocks: Sequence[nn.Module], windows: Sequence[int | None]) -> None:
    """Biases for the window of each of timm's BEiT blocks, and layer scales under the name that all other families have.

    Raises:
        ValueError: A block without window: its positions are relative within one.
    """
    if not all(windows):
        raise ValueError(f"BEiT's positions are relative within a window: every block needs one, got {list(windows)}")
    for block, window in zip(blocks, windows, strict=True):
        assert isinstance(block, beit.Block)
        assert window is not None
        block.attn = BiasedAttention(block.attn, window)
        for scale, gamma in (("ls1", block.gamma_1), ("ls2", block.gamma_2)):
            assert gamma is not None
            layer = LayerScale(len(gamma))
            layer.gamma = gamma
            setattr(block, scale, layer)
        block.gamma_1 = block.gamma_2 = None


class FullNormAttention(Attention):
    """InternViT-6B's attention: queries and keys are normed over all channels at once, before they are split into heads.

    Shape:
        x: (B, L, C); returns the same.
    """

    def __init__(self, dim: int, num_heads: int, *, norm_layer: Callable[[int], nn.Module], **options: Any) -> None:
        super().__init__(dim, num_heads, **options)
        self.q_norm, self.k_norm = norm_layer(dim), norm_layer(dim)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attends globally; masks are refused."""
        assert attn_mask is None
        assert not is_causal
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (query, key, value))
        attended = dot_product(query, key, value, fused=self.fused_attn)
        return self.proj(attended.transpose(1, 2).flatten(2))
