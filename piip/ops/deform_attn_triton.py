"""Deformable attention in Triton: the portable GPU kernel, and a specification of the CUDA one that runs without a GPU.

`forward` and `backward` take the arguments of `piip::deform_attn_forward` and `_backward` (deform_attn.py), for any width and number of
points. Storage is float32, float16 or bf16; coordinates, softmax and sums are float32. With TRITON_INTERPRET=1 they run on CPU tensors,
which is how tests/ops holds them to the reference where there is no GPU.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's language looks like Python, but is none.

import torch
import triton
import triton.language as tl
from torch import Tensor

from piip.ops.fixed_point import fixed_point_scale, from_fixed_point

# B batch, Q queries (rows times columns), V pixels of the value map, N heads, D channels per head, P points
# One program is BQ queries of one head of one image. BD and BP are D and P rounded up to powers of two, which Triton asks for.


@triton.jit
def _attention(logits_ptr, base, query_ok, P: tl.constexpr, BP: tl.constexpr):
    """The softmax (BQ, BP) of the queries' logits, 0 where there is no point."""
    point = tl.arange(0, BP)
    point_ok = (point < P)[None, :]
    logits = tl.load(logits_ptr + base[:, None] + point[None, :], mask=query_ok[:, None] & point_ok, other=0.0)
    logits = tl.where(point_ok, logits.to(tl.float32), float("-inf"))
    powers = tl.exp(logits - tl.max(logits, 1)[:, None])
    return powers / tl.sum(powers, 1)[:, None]


@triton.jit
def _location(offsets_ptr, at, query_ok, cell, cells, size):
    """Where a point is on one axis of the map: the lower pixel and the part of the way to the upper one."""
    offset = tl.load(offsets_ptr + at, mask=query_ok, other=0.0).to(tl.float32)
    place = (cell.to(tl.float32) + 0.5) * (size.to(tl.float32) / cells) - 0.5 + offset
    below = tl.floor(place)
    # Far away is as good as just outside, and fits an integer. The fraction keeps NaN and inf: such a point has to show.
    pixel = tl.minimum(tl.maximum(below, -2.0), size.to(tl.float32)).to(tl.int32)
    return pixel, place - below


@triton.jit
def _forward(
    value_ptr, offsets_ptr, logits_ptr, out_ptr, V, Q, value_height, value_width, query_height, query_width,
    N: tl.constexpr, D: tl.constexpr, P: tl.constexpr, BQ: tl.constexpr, BD: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    image, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    query = tl.program_id(0) * BQ + tl.arange(0, BQ)
    query_ok = query < Q
    channel = tl.arange(0, BD)
    at_query = (image * Q + query) * N + head
    attention = _attention(logits_ptr, at_query * P, query_ok, P, BP)
    total = tl.zeros([BQ, BD], tl.float32)
    for p in tl.static_range(P):
        at_point = (at_query * P + p) * 2
        left, dx = _location(offsets_ptr, at_point, query_ok, query % query_width, query_width, value_width)
        top, dy = _location(offsets_ptr, at_point + 1, query_ok, query // query_width, query_height, value_height)
        of_point = tl.sum(tl.where((tl.arange(0, BP) == p)[None, :], attention, 0.0), 1)
        for corner in tl.static_range(4):
            x, y = left + (corner & 1), top + (corner >> 1)
            weight = of_point * (dx if corner & 1 else 1.0 - dx) * (dy if corner >> 1 else 1.0 - dy)
            inside = query_ok & (x >= 0) & (x < value_width) & (y >= 0) & (y < value_height)
            at_pixel = ((image * V + y * value_width + x) * N + head) * D
            mask = inside[:, None] & (channel < D)[None, :]
            pixel = tl.load(value_ptr + at_pixel[:, None] + channel[None, :], mask=mask, other=0.0)
            total += weight[:, None] * pixel.to(tl.float32)
    mask = query_ok[:, None] & (channel < D)[None, :]
    tl.store(out_ptr + at_query[:, None] * D + channel[None, :], total.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _backward(
    grad_out_ptr, value_ptr, offsets_ptr, logits_ptr, grad_value_ptr, grad_offsets_ptr, grad_logits_ptr, scale_ptr,
    V, Q, value_height, value_width, query_height, query_width, FIXED: tl.constexpr,
    N: tl.constexpr, D: tl.constexpr, P: tl.constexpr, BQ: tl.constexpr, BD: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    image, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    query = tl.program_id(0) * BQ + tl.arange(0, BQ)
    query_ok = query < Q
    channel, point = tl.arange(0, BD), tl.arange(0, BP)
    at_query = (image * Q + query) * N + head
    attention = _attention(logits_ptr, at_query * P, query_ok, P, BP)
    mask = query_ok[:, None] & (channel < D)[None, :]
    grad_out = tl.load(grad_out_ptr + at_query[:, None] * D + channel[None, :], mask=mask, other=0.0).to(tl.float32)
    of_attention = tl.zeros([BQ, BP], tl.float32)
    for p in tl.static_range(P):
        at_point = (at_query * P + p) * 2
        left, dx = _location(offsets_ptr, at_point, query_ok, query % query_width, query_width, value_width)
        top, dy = _location(offsets_ptr, at_point + 1, query_ok, query // query_width, query_height, value_height)
        of_point = tl.sum(tl.where((point == p)[None, :], attention, 0.0), 1)
        sampled, of_x, of_y = tl.zeros([BQ], tl.float32), tl.zeros([BQ], tl.float32), tl.zeros([BQ], tl.float32)
        for corner in tl.static_range(4):
            x, y = left + (corner & 1), top + (corner >> 1)
            weight_x, weight_y = dx if corner & 1 else 1.0 - dx, dy if corner >> 1 else 1.0 - dy
            inside = query_ok & (x >= 0) & (x < value_width) & (y >= 0) & (y < value_height)
            at_pixel = ((image * V + y * value_width + x) * N + head) * D
            at, mask = at_pixel[:, None] + channel[None, :], inside[:, None] & (channel < D)[None, :]
            dot = tl.sum(grad_out * tl.load(value_ptr + at, mask=mask, other=0.0).to(tl.float32), 1)
            grad_pixel = (of_point * weight_x * weight_y)[:, None] * grad_out
            if FIXED:
                grad_pixel = tl.floor(grad_pixel * tl.load(scale_ptr) + 0.5).to(tl.int64)
            tl.atomic_add(grad_value_ptr + at, grad_pixel, mask=mask, sem="relaxed")
            sampled += weight_x * weight_y * dot
            of_x += (weight_y if corner & 1 else -weight_y) * dot
            of_y += (weight_x if corner >> 1 else -weight_x) * dot
        grad_type = grad_offsets_ptr.dtype.element_ty
        tl.store(grad_offsets_ptr + at_point, (of_point * of_x).to(grad_type), mask=query_ok)
        tl.store(grad_offsets_ptr + at_point + 1, (of_point * of_y).to(grad_type), mask=query_ok)
        of_attention += tl.where((point == p)[None, :], sampled[:, None], 0.0)
    grad_logits = attention * (of_attention - tl.sum(attention * of_attention, 1)[:, None])
    at = (at_query * P)[:, None] + point[None, :]
    mask = query_ok[:, None] & (point < P)[None, :]
    tl.store(grad_logits_ptr + at, grad_logits.to(grad_logits_ptr.dtype.element_ty), mask=mask)


def forward(value: Tensor, offsets: Tensor, logits: Tensor, *hw: int) -> Tensor:
    """(B, Hq * Wq, N * D). `hw`: rows and columns of the map, then of the queries."""
    value, offsets, logits = (t.contiguous() for t in (value, offsets, logits))
    batch, _, num_heads, dim = value.shape
    out = value.new_empty(batch, offsets.shape[1], num_heads * dim)
    if out.numel():
        grid, sizes = _launch(value, logits)
        _forward[grid](value, offsets, logits, out, value.shape[1], offsets.shape[1], *hw, **sizes)
    return out


def backward(
    grad_out: Tensor, value: Tensor, offsets: Tensor, logits: Tensor, *hw: int, deterministic: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of value, offsets and logits, each in its dtype.

    Atomic additions of floats come in any order. `deterministic` adds integers instead (fixed_point.py): the same bits every time.
    """
    grad_out, value, offsets, logits = (t.contiguous() for t in (grad_out, value, offsets, logits))
    grad_offsets, grad_logits = torch.empty_like(offsets), torch.empty_like(logits)
    sums = torch.zeros_like(value, dtype=torch.int64 if deterministic else torch.float32)
    if grad_out.numel() == 0:  # no query: nothing was read
        return sums.to(value.dtype), grad_offsets.zero_(), grad_logits.zero_()
    scale = fixed_point_scale(grad_out, offsets.shape[1]) if deterministic else sums
    grid, sizes = _launch(value, logits)
    tensors = (grad_out, value, offsets, logits, sums, grad_offsets, grad_logits, scale)
    _backward[grid](*tensors, value.shape[1], offsets.shape[1], *hw, FIXED=deterministic, **sizes)
    grad_value = from_fixed_point(sums, scale) if deterministic else sums
    return grad_value.to(value.dtype), grad_offsets, grad_logits


def _launch(value: Tensor, logits: Tensor) -> tuple[tuple[int, int, int], dict[str, int]]:
    """The grid of programs, and the sizes that are compiled in."""
    batch, num_queries, num_heads, num_points = logits.shape
    dim = value.shape[3]
    padded = triton.next_power_of_2(dim)
    queries = max(
        1, min(32, 1024 // padded)
    )  # 8 sums for each of a program's 128 threads: more, and code and compile time grow
    sizes = {"N": num_heads, "D": dim, "P": num_points, "BQ": queries, "BD": padded}
    return (triton.cdiv(num_queries, queries), num_heads, batch), sizes | {"BP": triton.next_power_of_2(num_points)}
