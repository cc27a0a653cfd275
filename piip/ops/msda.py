"""Multi-scale deformable attention: every query samples all levels of a pyramid. The op, its reference, and the choice between them.

It is the call of Deformable DETR, of DINO's decoder and of Mask DINO, whose weights fit it as they are. `piip.ops.deform_attn` is
the faster form for one level, queries on a grid and weights still before their softmax.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from piip.ops.choice import choose, prepare
from piip.ops.gradients import differentiable

# B batch, S pixels of all levels, Q queries, N heads, D channels per head, L levels, P points


def msda(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    kernel: str = "auto",
) -> Tensor:
    """Every query sums weighted samples of each level, head by head (Deformable DETR, arXiv 2010.04159).

    Samples are bilinear between pixel centres, zero outside the map. The weights are used as they are; a softmax over levels
    and points is the caller's.

    Dtypes: locations, weights and sums are float32 (float64 for a float64 `value`), whatever the inputs are. The result has
    `value`'s dtype, each gradient its own input's. Second derivatives exist for `kernel="reference"` only.

    Args:
        value: (B, S, N, D) pixels of all levels after each other, row by row.
        spatial_shapes: Rows and columns of each level, as numbers: a tensor would have to be fetched from the device.
        sampling_locations: (B, Q, N, L, P, 2) x, y; 0 and 1 are the outer edges of the map.
        attention_weights: (B, Q, N, L, P).
        kernel: "reference" (PyTorch ops), "cpp" (csrc/, CPU), "cuda" (csrc/, at most 64 levels) or "auto": the fastest that can run.
            PIIP_KERNEL replaces "auto". On a GPU the gradient of `value` is summed by atomic additions, in any order: its last bits
            vary, unless `torch.use_deterministic_algorithms(True)`, which is slower.

    Returns:
        (B, Q, N * D).

    Raises:
        ValueError: Shapes do not fit each other, or there is no such kernel.
        RuntimeError: A kernel was asked for that cannot run here.
    """
    shapes = [(int(rows), int(columns)) for rows, columns in spatial_shapes]
    _check(value, shapes, sampling_locations, attention_weights)
    given, chosen = value.dtype, choose("msda", kernel, value)
    value, locations, weights = prepare(value, sampling_locations, attention_weights, kernel=chosen)
    if chosen == "reference":
        return reference(value, shapes, locations, weights).to(given)
    hw = [size for shape in shapes for size in shape]
    return _run(value, locations, weights, hw).to(given)


def reference(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """`msda` in PyTorch ops, all in one dtype."""
    batch, _, num_heads, dim = value.shape
    num_queries = sampling_locations.shape[1]
    if value.numel() == 0 or attention_weights.numel() == 0:  # grid_sample refuses empty maps; keep the graph
        unused = value.sum() + sampling_locations.sum() + attention_weights.sum()
        return value.new_zeros(batch, num_queries, num_heads * dim) + 0 * unused

    # grid_sample knows no heads: they become part of the batch. -1 and 1 are the outer edges of its maps.
    value_levels = value.split([rows * columns for rows, columns in spatial_shapes], dim=1)
    grid = (2 * sampling_locations - 1).transpose(1, 2).flatten(0, 1)
    sampled = []
    for level, (rows, columns) in enumerate(spatial_shapes):
        maps = value_levels[level].permute(0, 2, 3, 1).reshape(batch * num_heads, dim, rows, columns)
        sampled.append(
            F.grid_sample(maps, grid[:, :, level], mode="bilinear", padding_mode="zeros", align_corners=False)
        )
    weights = attention_weights.transpose(1, 2).reshape(batch * num_heads, 1, num_queries, -1)
    out = (torch.cat(sampled, -1) * weights).sum(-1)
    return out.view(batch, num_heads * dim, num_queries).transpose(1, 2).contiguous()


def _check(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> None:
    if value.ndim != 4:
        raise ValueError(f"value must be (B, S, N, D), got {tuple(value.shape)}")
    batch, num_pixels, num_heads, _ = value.shape
    wanted = sum(rows * columns for rows, columns in shapes)
    if num_pixels != wanted or any(min(shape) < 1 for shape in shapes):
        raise ValueError(
            f"value has {num_pixels} pixels, spatial_shapes {shapes} ask for {wanted}, at least one a level"
        )
    num_queries, num_points = (locations.shape[1], locations.shape[4]) if locations.ndim == 6 else ("Q", "P")
    for name, tensor, wanted in (
        ("sampling_locations", locations, (batch, num_queries, num_heads, len(shapes), num_points, 2)),
        ("attention_weights", weights, (batch, num_queries, num_heads, len(shapes), num_points)),
    ):
        if tensor.shape != wanted:
            raise ValueError(
                f"{name} must be {wanted} for value {tuple(value.shape)} and {len(shapes)} levels, got {tuple(tensor.shape)}"
            )
    if num_points == 0 or not shapes:
        raise ValueError("msda needs at least one level, and one point per head and level")


_LIBRARY = torch.library.Library("piip", "FRAGMENT")
_INPUTS = "Tensor value, Tensor sampling_locations, Tensor attention_weights, SymInt[] spatial_shapes"
_LIBRARY.define(f"msda_forward({_INPUTS}) -> Tensor")
_LIBRARY.define(f"msda_backward(Tensor grad_out, {_INPUTS}, *, bool deterministic=False) -> (Tensor, Tensor, Tensor)")


@torch.library.register_fake("piip::msda_forward", lib=_LIBRARY)
def _(value: Tensor, locations: Tensor, weights: Tensor, hw: Sequence[int]) -> Tensor:
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


@torch.library.register_fake("piip::msda_backward", lib=_LIBRARY)
def _(
    grad_out: Tensor,
    value: Tensor,
    locations: Tensor,
    weights: Tensor,
    hw: Sequence[int],
    *,
    deterministic: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    value, locations, weights = (
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in (value, locations, weights)
    )
    return value, locations, weights


_run = differentiable("msda", _LIBRARY)


@register_flop_formula(torch.ops.piip.msda_forward)
def _flops(value_shape: torch.Size, locations: Any, weights_shape: torch.Size, *args: Any, **kwargs: Any) -> int:
    """2 * MACs; MACs = 5 per query, head, level, point and channel: four bilinear corners, and the point's weight in the sum."""
    return 2 * 5 * weights_shape.numel() * value_shape[3]
