"""Window attention without padded work: the numbers of padded windows, computed on the tokens that are there.

Maps that are no multiple of the window are padded in the published networks, and padded tokens take part in the softmax. They are all
alike: zeros before the qkv layer give its bias as key and value. So n of them are one key whose logit is larger by log(n), or n
copies of it, for the kernels of a GPU that know no bias.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn.attention import varlen

from piip.models.branches.attention import (
    BiasedAttention,
    FullNormAttention,
    dot_product,
    put_out,
    windowed,
    windowed_after_qkv,
)
from piip.models.precision import without_autocast
from piip.weights.resizing import Grid

# B batch, H W grid height and width, h w of one window's tokens, L = h * w, K keys, M windows, N heads, D channels per head

HALF = (torch.float16, torch.bfloat16)
Windowed = Callable[[nn.Module, Tensor, Grid, int], Tensor]


def is_known(attention: nn.Module) -> bool:
    """Whether `windowed_exact` computes all that this attention does: of other kinds, and of dropout, it knows nothing."""
    return type(attention) in (Attention, FullNormAttention, BiasedAttention) and not (
        attention.attn_drop.p or attention.proj_drop.p  # type: ignore[union-attr]
    )


class Projected(NamedTuple):
    """What the qkv layer makes of the tokens, and of one padded token."""

    query: Tensor
    key: Tensor
    value: Tensor
    """(B, L, N, D) each."""
    pad_key: Tensor
    pad_value: Tensor
    """(N, D) each."""


class Windows(NamedTuple):
    """Windows of one shape."""

    query: Tensor
    """(M, L, N, D)."""
    key: Tensor
    value: Tensor
    """(M, K, N, D): of the window's own tokens, then what stands for the padded ones."""
    bias: Tensor | None
    """Added to the logits, broadcast to (M, N, L, K)."""


def window_attention(*, exact: bool, padding: str, together: bool = False) -> Windowed:
    """The function (attention, tokens (B, H*W, C), grid, window) -> (B, H*W, C) for one of the two paddings.

    Args:
        exact: Without padded work; else the plain path. Equal but for rounding. Kinds of attention that are not `is_known` take
            the plain path; so do networks under DeepSpeed's ZeRO-3: it gathers a layer's weights for that layer's own call only,
            and the padded token's key is read outside of it.
        padding: "before_qkv" or "after_qkv", see attention.py.
        together: As for `windowed_exact`.
    """
    plain = windowed if padding == "before_qkv" else windowed_after_qkv

    def run(attention: nn.Module, tokens: Tensor, grid: Grid, window: int) -> Tensor:
        sharded = hasattr(next(attention.parameters()), "ds_status")
        whole = grid[0] % window == 0 and grid[1] % window == 0
        if not exact or sharded or whole or not is_known(attention):
            return plain(attention, tokens, grid, window)  # type: ignore[arg-type]
        return windowed_exact(attention, tokens, grid, window, padding=padding, together=together)

    return run


def windowed_exact(
    attention: nn.Module,
    tokens: Tensor,
    grid: Grid,
    window: int,
    *,
    padding: str = "before_qkv",
    together: bool = False,
) -> Tensor:
    """`attention.windowed`, or `windowed_after_qkv`, on real tokens only.

    Args:
        attention: Plain (with norms or gate), BEiT's or InternViT's; see `is_known`.
        tokens: (B, H*W, C) after the norm.
        grid: H and W.
        window: Side in tokens.
        padding: As for `window_attention`.
        together: All windows in one call of PyTorch's `varlen_attn`, where they are in half precision and on CUDA. Else, and where
            logits have a bias (BEiT), one call for each shape: whole, right edge, bottom edge, corner.

    Returns:
        (B, H*W, C).
    """
    if not is_known(attention):
        raise TypeError(
            f"no exact windows for {attention!r}: take attention.windowed, or teach windows.py what it does"
        )
    projected = _project(attention, tokens)
    if padding == "after_qkv":
        projected = projected._replace(
            pad_key=torch.zeros_like(projected.pad_key), pad_value=torch.zeros_like(projected.pad_value)
        )
    biased = isinstance(attention, BiasedAttention)
    together = together and not biased and projected.value.dtype in HALF
    # n copies need no bias: FlashAttention knows none, and in bf16 log(n) would be rounded
    repeat = together or (tokens.is_cuda and not biased)

    maps = [t.unflatten(1, grid) for t in projected[:3]]
    bands = [
        [[m[:, top:bottom, left:right] for m in maps] for left, right in _spans(grid[1], window)]
        for top, bottom in _spans(grid[0], window)
    ]
    windows = [_fold(attention, piece, projected, window, repeat=repeat) for band in bands for piece in band]
    with without_autocast(tokens.device):
        fused: bool = attention.fused_attn  # type: ignore[assignment]
        attended = iter(attend_together(windows) if together else [attend(w, fused=fused) for w in windows])
    merged = [torch.cat([_unfold(next(attended), query, window) for query, *_ in band], dim=2) for band in bands]
    return put_out(attention, torch.cat(merged, dim=1).flatten(1, 2), tokens)


def attend(windows: Windows, *, fused: bool = True) -> Tensor:
    """(M, L, N, D): windows of one shape. `fused`: as for `attention.dot_product`."""
    query, key, value = (t.transpose(1, 2) for t in windows[:3])
    return dot_product(query, key, value, windows.bias, fused=fused).transpose(1, 2)


def attend_together(windows: Sequence[Windows]) -> list[Tensor]:
    """(M, L, N, D) each: windows of several shapes, without biases, in one call."""
    query = torch.cat([w.query.flatten(0, 1) for w in windows])
    key, value = (
        torch.cat([t.flatten(0, 1) for t in ts]) for ts in zip(*((w.key, w.value) for w in windows), strict=True)
    )
    queries, keys = [w.query.shape[:2] for w in windows], [w.key.shape[:2] for w in windows]
    begins, key_begins = _boundaries(queries, query.device), _boundaries(keys, query.device)
    longest, key_longest = (max(length for _, length in shapes) for shapes in (queries, keys))
    out = varlen.varlen_attn(query, key, value, begins, key_begins, longest, key_longest)
    assert isinstance(out, Tensor)
    return [t.unflatten(0, s) for t, s in zip(out.split([s.numel() for s in queries]), queries, strict=True)]


def _boundaries(shapes: Sequence[torch.Size], device: torch.device) -> Tensor:
    """Where each of M windows of L tokens begins, for every (M, L), and where the last one ends: int32, made on the device."""
    begins, end = [], 0
    for shape in shapes:
        begin, end = end, end + shape.numel()
        begins.append(torch.arange(begin, end, shape[1], dtype=torch.int32, device=device))
    return torch.cat([*begins, torch.full((1,), end, dtype=torch.int32, device=device)])


def _spans(size: int, window: int) -> Iterator[tuple[int, int]]:
    """Begin and end of what whole windows cover, and of the rest."""
    whole = size // window * window
    if whole:
        yield 0, whole
    if whole < size:
        yield whole, size


def _fold(attention: nn.Module, maps: list[Tensor], projected: Projected, window: int, *, repeat: bool) -> Windows:
    """Queries, keys and values (B, H, W, N, D) in windows of one shape; of n padded keys n copies (`repeat`), or one with a bias."""
    _, H, W, N, D = maps[0].shape
    h, w = min(window, H), min(window, W)
    query, key, value = (
        m.unflatten(2, (-1, w)).unflatten(1, (-1, h)).transpose(2, 3).reshape(-1, h * w, N, D) for m in maps
    )
    if num_padded := window * window - h * w:
        copies = num_padded if repeat else 1
        key, value = (
            torch.cat([t, pad.to(t.dtype).expand(t.shape[0], copies, -1, -1)], dim=1)
            for t, pad in ((key, projected.pad_key), (value, projected.pad_value))
        )
    bias = None if repeat else _bias(attention, h, w, window, query)
    if bias is not None:
        # log(n) in bf16 would be wrong by up to 1/100; the CPU's kernels take fp32 beside bf16, CUDA's do not
        wide = torch.promote_types(query.dtype, torch.float32)
        bias = bias.to(query.dtype if query.is_cuda else wide)
    return Windows(query, key, value, bias)


def _unfold(attended: Tensor, query: Tensor, window: int) -> Tensor:
    """Windows (M, h*w, N, D) of the map `query` (B, H, W, N, D) was cut from -> (B, H, W, N*D)."""
    B, H, W, _, _ = query.shape
    h, w = min(window, H), min(window, W)
    return attended.flatten(2).view(B, H // h, W // w, h, w, -1).transpose(2, 3).reshape(B, H, W, -1)


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
    assert isinstance(attention, Attention | BiasedAttention)
    heads = attention.num_heads
    if isinstance(attention, BiasedAttention):
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
    # norms give fp32 under autocast
    return Projected(query.to(value.dtype), key.to(value.dtype), value, pad_key, pad_value)
