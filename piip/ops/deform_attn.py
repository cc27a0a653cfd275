"""Deformable attention over one feature map: the op, its plain PyTorch reference, and the choice between the two.

What the compiled kernel does is what `reference` says; tests/ops holds them together.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import register_flop_formula

from piip.ops.eager import run_op
from piip.ops.kernels import active_kernel

# B batch, Q queries (rows times columns), V pixels of the value map, N heads, D channels per head, P points


def deform_attn(
    value: Tensor,
    offsets: Tensor,
    logits: Tensor,
    value_hw: tuple[int, int],
    query_hw: tuple[int, int],
    *,
    kernel: str = "auto",
) -> Tensor:
    """Every query looks at `P` points of the value map around its own place and averages what it finds, head by head.

    The queries lie on a grid over the same image as the map: cell (row r, column c) looks around ((c + 0.5) / Wq, (r + 0.5) / Hq)
    of the map's width and height, plus its offsets. Values are bilinear between pixel centres, zero outside the map; the
    weights of a head's points are a softmax.

    Dtypes: coordinates, softmax and sums are float32 (float64 for a float64 `value`), whatever the inputs are, so `offsets` may
    stay float32 beside a bf16 `value`. The result has `value`'s dtype, each gradient its own input's. Autocast changes nothing:
    the dtypes given are the dtypes used. On CPUs with AVX512-BF16 a bf16 `value` meets weights of 16 bits, from bf16 logits by a
    softmax right to 1.4e-4: an eighth of what rounding the result loses. Second derivatives exist for `kernel="reference"` only.

    Args:
        value: (B, Hv * Wv, N, D) pixels of the map, row by row.
        offsets: (B, Hq * Wq, N, P, 2) x, y in pixels of the value map.
        logits: (B, Hq * Wq, N, P) weights before the softmax over P.
        value_hw: Rows and columns of the value map.
        query_hw: Rows and columns of the query grid.
        kernel: "reference" (PyTorch ops), "cpp" (csrc/, CPU only), "cuda" (csrc/), "triton", or "auto": the fastest that can run
            (kernels.py). The environment variable PIIP_KERNEL replaces "auto". Tensors without data (meta, fake) record the op itself:
            counts never depend on this. On a GPU the gradient of `value` is summed by atomic additions, in any order: its last bits
            vary, unless `torch.use_deterministic_algorithms(True)`, which is slower.

    Returns:
        (B, Hq * Wq, N * D).

    Raises:
        ValueError: Shapes do not fit each other, or there is no such kernel.
        RuntimeError: A kernel was asked for by name and cannot run here.
    """
    _check(value, offsets, logits, value_hw, query_hw)
    arithmetic = torch.float64 if value.dtype == torch.float64 else torch.float32
    without_data = value.is_meta or isinstance(value, FakeTensor)
    chosen = "" if without_data else active_kernel(kernel, value.device.type, value.dtype)
    if chosen == "reference":
        return reference(value.to(arithmetic), offsets.to(arithmetic), logits.to(arithmetic), value_hw, query_hw).to(
            value.dtype
        )
    given = value.dtype
    if chosen in ("cuda", "triton"):
        tensors = _storable_on_gpu(value, offsets, logits)
    else:
        tensors = [_storable(t, arithmetic) for t in (value, offsets, logits)]
    if chosen == "triton":
        return torch.ops.piip.deform_attn_triton_forward.default(*tensors, *value_hw, *query_hw).to(given)
    op = torch.ops.piip.deform_attn_forward.default
    if without_data:
        return op(*tensors, *value_hw, *query_hw).to(given)
    out = run_op(op, _differentiate, *tensors, *value_hw, *query_hw)
    return out if out.dtype == given else out.to(given)


def reference(
    value: Tensor, offsets: Tensor, logits: Tensor, value_hw: tuple[int, int], query_hw: tuple[int, int]
) -> Tensor:
    """`deform_attn` in PyTorch ops, all in one dtype."""
    batch, _, num_heads, dim = value.shape
    (value_rows, value_columns), (query_rows, query_columns) = value_hw, query_hw
    num_queries, num_points = logits.shape[1], logits.shape[3]
    if value.numel() == 0 or logits.numel() == 0:  # grid_sample refuses empty maps; keep the graph
        return value.new_zeros(batch, num_queries, num_heads * dim) + 0 * (value.sum() + offsets.sum() + logits.sum())

    # Sampling locations in grid_sample's coordinates: -1 and 1 are the outer edges of the map.
    x_Q = (torch.arange(query_columns, device=value.device, dtype=value.dtype) + 0.5) / query_columns
    y_Q = (torch.arange(query_rows, device=value.device, dtype=value.dtype) + 0.5) / query_rows
    reference_points_Q2 = torch.stack((x_Q.repeat(query_rows), y_Q.repeat_interleave(query_columns)), -1)
    size_2 = torch.stack(
        [value.new_full((), n) for n in (value_columns, value_rows)]
    )  # nothing is copied from the host
    grid_BQNP2 = 2 * (reference_points_Q2[:, None, None] + offsets / size_2) - 1

    # grid_sample knows no heads: they become part of the batch.
    maps = value.permute(0, 2, 3, 1).reshape(batch * num_heads, dim, value_rows, value_columns)
    grid = grid_BQNP2.transpose(1, 2).reshape(batch * num_heads, num_queries, num_points, 2)
    sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weights = logits.softmax(-1).transpose(1, 2).reshape(batch * num_heads, 1, num_queries, num_points)
    out = (sampled * weights).sum(-1)
    return out.view(batch, num_heads * dim, num_queries).transpose(1, 2).contiguous()


def _check(
    value: Tensor, offsets: Tensor, logits: Tensor, value_hw: tuple[int, int], query_hw: tuple[int, int]
) -> None:
    batch, num_pixels, num_heads, _ = value.shape
    num_points = logits.shape[-1]
    num_queries = query_hw[0] * query_hw[1]
    if num_pixels != value_hw[0] * value_hw[1]:
        raise ValueError(
            f"value has {num_pixels} pixels, value_hw {tuple(value_hw)} asks for {value_hw[0] * value_hw[1]}"
        )
    for name, tensor, wanted in (
        ("offsets", offsets, (batch, num_queries, num_heads, num_points, 2)),
        ("logits", logits, (batch, num_queries, num_heads, num_points)),
    ):
        if tensor.shape != wanted:
            raise ValueError(
                f"{name} must be {wanted} for value {tuple(value.shape)} and query_hw {query_hw}, got {tuple(tensor.shape)}"
            )
    if num_points == 0:
        raise ValueError("deform_attn needs at least one point per head, logits have none")


def _storable(tensor: Tensor, arithmetic: torch.dtype) -> Tensor:
    """The op reads bf16 beside float32; everything else is converted to the arithmetic's dtype."""
    if tensor.dtype == arithmetic or (tensor.dtype == torch.bfloat16 and arithmetic == torch.float32):
        return tensor  # `to` would give the same, but takes microseconds to find that out
    return tensor.to(arithmetic)


def _storable_on_gpu(value: Tensor, offsets: Tensor, logits: Tensor) -> list[Tensor]:
    """The GPU's ops read any of float32, float16 and bf16; offsets and logits in one dtype, `value`'s or float32."""
    if value.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        value = value.float()
    location = value.dtype if offsets.dtype == logits.dtype == value.dtype else torch.float32
    return [value, offsets.to(location), logits.to(location)]


def _out_like(value: Tensor, offsets: Tensor, logits: Tensor, *hw: int) -> Tensor:
    return value.new_empty(value.shape[0], offsets.shape[1], value.shape[2] * value.shape[3])


def _gradients_like(
    grad_out: Tensor, value: Tensor, offsets: Tensor, logits: Tensor, *hw: int, deterministic: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    value, offsets, logits = (
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in (value, offsets, logits)
    )
    return value, offsets, logits


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, offsets, logits, *hw = inputs
    ctx.save_for_backward(value, offsets, logits)
    ctx.hw = hw


def _no_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError("the compiled deform_attn has no second derivative; take kernel='reference'")


def _flops(value_shape: torch.Size, offsets_shape: torch.Size, *args: Any, **kwargs: Any) -> int:
    """2 * MACs; MACs = 5 per query, head, point and channel: four bilinear corners, and the point's weight in the sum.

    The released PIIP counts also take 5 per query, point and channel (but with the query's full width, before `ratio`).
    """
    batch, num_queries, num_heads, num_points, _ = offsets_shape
    return 2 * 5 * batch * num_queries * num_heads * num_points * value_shape[3]


# The schemas are Python's, so that the op can be traced and counted where nothing is compiled; csrc/ adds the CPU and CUDA kernels.
_LIBRARY = torch.library.Library("piip", "FRAGMENT")


def _define(name: str) -> Callable[..., tuple[Tensor | None, ...]]:
    """`piip::<name>_forward` and `_backward`: schemas, fake tensors, autograd (which is returned) and FLOPs."""
    shapes = "SymInt value_height, SymInt value_width, SymInt query_height, SymInt query_width"
    tensors, gradients = "Tensor value, Tensor offsets, Tensor logits", "(Tensor, Tensor, Tensor)"
    _LIBRARY.define(f"{name}_forward({tensors}, {shapes}) -> Tensor")
    _LIBRARY.define(
        f"{name}_backward(Tensor grad_out, {tensors}, {shapes}, *, bool deterministic=False) -> {gradients}"
    )
    backward = getattr(torch.ops.piip, f"{name}_backward").default

    def differentiate(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        deterministic = torch.are_deterministic_algorithms_enabled()
        return *backward(grad_out, *ctx.saved_tensors, *ctx.hw, deterministic=deterministic), None, None, None, None

    torch.library.register_fake(f"piip::{name}_forward", _out_like, lib=_LIBRARY)
    torch.library.register_fake(f"piip::{name}_backward", _gradients_like, lib=_LIBRARY)
    torch.library.register_autograd(f"piip::{name}_forward", differentiate, setup_context=_keep, lib=_LIBRARY)
    torch.library.register_autograd(f"piip::{name}_backward", _no_second_derivative, lib=_LIBRARY)
    register_flop_formula(getattr(torch.ops.piip, f"{name}_forward"))(_flops)
    return differentiate


_differentiate = _define("deform_attn")
_define("deform_attn_triton")


@torch.library.impl(_LIBRARY, "deform_attn_triton_forward", "CUDA")
def _(value: Tensor, offsets: Tensor, logits: Tensor, *hw: int) -> Tensor:
    from piip.ops import deform_attn_triton  # Triton is there only where PyTorch has it

    with torch.cuda.device(value.device):
        return deform_attn_triton.forward(value, offsets, logits, *hw)


@torch.library.impl(_LIBRARY, "deform_attn_triton_backward", "CUDA")
def _(
    grad_out: Tensor, value: Tensor, offsets: Tensor, logits: Tensor, *hw: int, deterministic: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    from piip.ops import deform_attn_triton

    with torch.cuda.device(value.device):
        return deform_attn_triton.backward(grad_out, value, offsets, logits, *hw, deterministic=deterministic)
