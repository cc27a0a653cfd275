"""Window attention without padded work: the numbers of padded windows, computed on the tokens that are there.

Maps that are no multiple of the window are padded in the published networks, and padded tokens take part in the softmax. They are all
alike: zeros before the qkv layer give its bias as key and value. So n of them are one key whose logit is larger by log(n).
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models import beit
from torch import Tensor, nn

from piip.models.attention import BiasedAttention, FullNormAttention, windowed, windowed_after_qkv
from piip.models.interaction import without_autocast
from piip.models.resizing import Grid

# B batch, H W grid height and width, h w of one window's tokens, L = h * w, N heads, D channels per head

Windowed = Callable[[nn.Module, Tensor, Grid, int], Tensor]


class Projected(NamedTuple):
    """What the qkv layer makes of the tokens, and of one padded token."""

    query: Tensor
    key: Tensor
    value: Tensor
    """(B, L, N, D) each."""
    pad_key: Tensor
    pad_value: Tensor
    """(N, D) each."""


def window_attention(*, exact: bool, padding: str) -> Windowed:
    """The function (attention, tokens (B, H*W, C), grid, window) -> (B, H*W, C) for one of the two paddings.

    Args:
        exact: Without padded work; else the plain path. Equal but for rounding. Networks under DeepSpeed's ZeRO-3 take the plain
            path: it gathers a layer's weights for that layer's own call only, and the padded token's key is read outside of it.
        padding: "before_qkv" or "after_qkv", see attention.py.
    """
    plain = windowed if padding == "before_qkv" else windowed_after_qkv

    def run(attention: nn.Module, tokens: Tensor, grid: Grid, window: int) -> Tensor:
        sharded = hasattr(next(attention.parameters()), "ds_status")
        if not exact or sharded or not (grid[0] % window or grid[1] % window):
            return plain(attention, tokens, grid, window)  # type: ignore[arg-type]
        return windowed_exact(attention, tokens, grid, window, padding=padding)

    return run


def windowed_exact(
    attention: nn.Module, tokens: Tensor, grid: Grid, window: int, *, padding: str = "before_qkv"
) -> Tensor:
    """`attention.windowed`, or `windowed_after_qkv`, on real tokens only.

    Windows of one shape (whole, right edge, bottom edge, corner) are attended together.

    Shape:
        tokens: (B, H*W, C) after the norm; returns the same.
    """
    projected = _project(attention, tokens)
    if padding == "after_qkv":
        projected = projected._replace(
            pad_key=torch.zeros_like(projected.pad_key), pad_value=torch.zeros_like(projected.pad_value)
        )
    maps = [t.unflatten(1, grid) for t in projected[:3]]
    bands = [
        torch.cat(
            [
                _attend(attention, [m[:, top:bottom, left:right] for m in maps], projected, window)
                for left, right in _spans(grid[1], window)
            ],
            dim=2,
        )
        for top, bottom in _spans(grid[0], window)
    ]
    return attention.proj(torch.cat(bands, dim=1).flatten(1, 2))  # type: ignore[operator]


def _spans(size: int, window: int) -> Iterator[tuple[int, int]]:
    """Begin and end of what whole windows cover, and of the rest."""
    whole = size // window * window
    if whole:
        yield 0, whole
    if whole < size:
        yield whole, size


def _attend(attention: nn.Module, maps: list[Tensor], projected: Projected, window: int) -> Tensor:
    """Queries, keys and values (B, H, W, N, D) of windows of one shape -> attended (B, H, W, N*D)."""
    B, H, W, N, D = maps[0].shape
    h, w = min(window, H), min(window, W)
    rows, columns = H // h, W // w
    query, key, value = (
        m.reshape(B, rows, h, columns, w, N, D).permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, N, h * w, D) for m in maps
    )
    num_padded = window * window - h * w
    if num_padded:
        key, value = (
            torch.cat([t, pad[:, None].to(t.dtype).expand(t.shape[0], -1, -1, -1)], dim=2)
            for t, pad in ((key, projected.pad_key), (value, projected.pad_value))
        )
    bias = _bias(attention, h, w, window, query)
    if bias is not None:
        # log(n) in bf16 would be wrong by up to 1/100; the CPU's kernels take fp32 beside bf16, CUDA's do not
        wide = torch.promote_types(query.dtype, torch.float32)
        bias = bias.to(query.dtype if query.is_cuda else wide)
    with without_autocast(query.device):
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    attended = attended.view(B, rows, columns, N, h, w, D).permute(0, 1, 4, 2, 5, 3, 6)
    return attended.reshape(B, H, W, N * D)


def _bias(attention: nn.Module, h: int, w: int, window: int, query: Tensor) -> Tensor | None:
    """What is added to the logits, broadcast to (windows, N, L, L + 1): the last column is the padded tokens' common key."""
    num_padded = window * window - h * w
    if not isinstance(attention, BiasedAttention):
        if not num_padded:
            return None
        zeros_L = torch.zeros(h * w, device=query.device, dtype=torch.float64)
        return F.pad(zeros_L, (0, 1), value=math.log(num_padded))[None, None, None]
    bias_NhwHW = attention._get_rel_pos_bias()[0].unflatten(2, (window, window)).unflatten(1, (window, window))
    bias_NLHW = bias_NhwHW[:, :h, :w].flatten(1, 2)
    real_NLL = bias_NLHW[:, :, :h, :w].flatten(2)
    if not num_padded:
        return real_NLL[None]
    # every query has its own bias for every padded place: together they weigh the sum of their exponentials
    padded = torch.cat([bias_NLHW[:, :, :h, w:].flatten(2), bias_NLHW[:, :, h:].flatten(2)], dim=2)
    return torch.cat([real_NLL, padded.logsumexp(dim=2, keepdim=True)], dim=2)[None]


def _project(attention: nn.Module, tokens: Tensor) -> Projected:
    assert isinstance(attention, Attention | beit.Attention)
    heads = attention.num_heads
    if isinstance(attention, beit.Attention):
        bias = None
        if attention.q_bias is not None:
            assert attention.k_bias is not None
            assert attention.v_bias is not None
            bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        qkv = F.linear(tokens, attention.qkv.weight, bias)
    else:
        qkv, bias = attention.qkv(tokens), attention.qkv.bias
    padded = qkv.new_zeros(qkv.shape[-1]) if bias is None else bias
    query, key, value = qkv.chunk(3, dim=-1)
    _, pad_key, pad_value = padded.chunk(3)
    if isinstance(attention, FullNormAttention):  # over all channels, before the heads
        query, key, pad_key = attention.q_norm(query), attention.k_norm(key), attention.k_norm(pad_key)
    query, key, value, pad_key, pad_value = (
        t.unflatten(-1, (heads, -1)) for t in (query, key, value, pad_key, pad_value)
    )
    if isinstance(attention, Attention) and not isinstance(attention, FullNormAttention):
        query, key, pad_key = attention.q_norm(query), attention.k_norm(key), attention.k_norm(pad_key)
    return Projected(query, key, value, pad_key, pad_value)
