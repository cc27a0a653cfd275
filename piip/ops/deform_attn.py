"""Deformable attention over one feature map: the op, its plain PyTorch reference, and the choice between the two.

What the compiled kernel does is what `reference` says; tests/ops holds them together.
"""

import os
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import register_flop_formula

from piip.ops import build

# B batch, Q queries (rows times columns), V pixels of the value map, N heads, D channels per head, P points

KERNELS = ("auto", "cpp", "reference")


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
    the dtypes given are the dtypes used. Second derivatives exist for `kernel="reference"` only.

    Args:
        value: (B, Hv * Wv, N, D) pixels of the map, row by row.
        offsets: (B, Hq * Wq, N, P, 2) x, y in pixels of the value map.
        logits: (B, Hq * Wq, N, P) weights before the softmax over P.
        value_hw: Rows and columns of the value map.
        query_hw: Rows and columns of the query grid.
        kernel: "reference" (PyTorch ops), "cpp" (csrc/, CPU only) or "auto": "cpp" where it can run. The environment variable
            PIIP_KERNEL replaces "auto". Tensors without data (meta, fake) record the op itself: counts never depend on this.

    Returns:
        (B, Hq * Wq, N * D).

    Raises:
        ValueError: Shapes do not fit each other, or there is no such kernel.
        RuntimeError: "cpp" was asked for and cannot run here.
    """
    _check(value, offsets, logits, value_hw, query_hw)
    arithmetic = torch.float64 if value.dtype == torch.float64 else torch.float32
    without_data = value.is_meta or isinstance(value, FakeTensor)
    if not without_data and active_kernel(kernel, value.device.type) == "reference":
        return reference(value.to(arithmetic), offsets.to(arithmetic), logits.to(arithmetic), value_hw, query_hw).to(
            value.dtype
        )
    given = value.dtype
    tensors = [_storable(t, arithmetic) for t in (value, offsets, logits)]
    return _run(without_data, *tensors, *value_hw, *query_hw).to(given)


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
    size_2 = torch.tensor([value_columns, value_rows], device=value.device, dtype=value.dtype)
    grid_BQNP2 = 2 * (reference_points_Q2[:, None, None] + offsets / size_2) - 1

    # grid_sample knows no heads: they become part of the batch.
    maps = value.permute(0, 2, 3, 1).reshape(batch * num_heads, dim, value_rows, value_columns)
    grid = grid_BQNP2.transpose(1, 2).reshape(batch * num_heads, num_queries, num_points, 2)
    sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weights = logits.softmax(-1).transpose(1, 2).reshape(batch * num_heads, 1, num_queries, num_points)
    out = (sampled * weights).sum(-1)
    return out.view(batch, num_heads * dim, num_queries).transpose(1, 2).contiguous()


@torch.compiler.assume_constant_result
def active_kernel(request: str = "auto", device: str = "cpu") -> str:
    """What `deform_attn` will run on a kind of device: "cpp" or "reference".

    The first call compiles `csrc/` if nobody has; where that fails, "auto" becomes "reference" and one log line says why.

    Raises:
        ValueError: No such kernel.
        RuntimeError: "cpp" was asked for and cannot run here.
    """
    source = "kernel="
    if request == "auto":
        request, source = os.environ.get("PIIP_KERNEL") or "auto", "PIIP_KERNEL="
    if request not in KERNELS:
        raise ValueError(f"{source}{request!r}: no such kernel. There are: {', '.join(KERNELS)}")
    if request == "cpp" and device != "cpu":
        raise RuntimeError(f"{source}'cpp' runs on the CPU, the tensors are on {device}. Take 'auto' or 'reference'.")
    if request == "reference" or device != "cpu":
        return "reference"
    if build.load():
        return "cpp"
    if request == "cpp":
        raise RuntimeError(f"{source}'cpp' cannot run: {build.problem()} Or take 'reference'.")
    return "reference"


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
    return tensor if tensor.dtype == torch.bfloat16 and arithmetic == torch.float32 else tensor.to(arithmetic)


# The schemas are Python's, so that the op can be traced and counted where nothing is compiled; csrc/ adds the CPU kernels.
_LIBRARY = torch.library.Library("piip", "FRAGMENT")
_SHAPES = "SymInt value_height, SymInt value_width, SymInt query_height, SymInt query_width"
_LIBRARY.define(f"deform_attn_forward(Tensor value, Tensor offsets, Tensor logits, {_SHAPES}) -> Tensor")
_LIBRARY.define(
    f"deform_attn_backward(Tensor grad_out, Tensor value, Tensor offsets, Tensor logits, {_SHAPES}) -> (Tensor, Tensor, Tensor)"
)


@torch.library.register_fake("piip::deform_attn_forward", lib=_LIBRARY)
def _(value: Tensor, offsets: Tensor, logits: Tensor, *hw: int) -> Tensor:
    return value.new_empty(value.shape[0], offsets.shape[1], value.shape[2] * value.shape[3])


@torch.library.register_fake("piip::deform_attn_backward", lib=_LIBRARY)
def _(grad_out: Tensor, value: Tensor, offsets: Tensor, logits: Tensor, *hw: int) -> tuple[Tensor, Tensor, Tensor]:
    value, offsets, logits = (
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in (value, offsets, logits)
    )
    return value, offsets, logits


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, offsets, logits, *hw = inputs
    ctx.save_for_backward(value, offsets, logits)
    ctx.hw = hw


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.piip.deform_attn_backward.default(grad_out, *ctx.saved_tensors, *ctx.hw), None, None, None, None


def _no_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError("the compiled deform_attn has no second derivative; take kernel='reference'")


torch.library.register_autograd("piip::deform_attn_forward", _backward, setup_context=_keep, lib=_LIBRARY)
torch.library.register_autograd("piip::deform_attn_backward", _no_second_derivative, lib=_LIBRARY)


class _Eager(torch.autograd.Function):
    """What `register_autograd` does, for eager calls: its general machinery takes longer than the kernel of a small map."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _keep(ctx, inputs, inputs[0])
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.piip.deform_attn_forward.default(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():  # asks for a graph of the gradients: the op says that there is none
            return _backward(ctx, grad_out)
        with torch._C._AutoDispatchBelowAutograd():
            return _backward(ctx, grad_out)


def _run(traced: bool, *inputs: Any) -> Tensor:
    """The forward op, by the shortest way. Whoever traces or transforms it shall see the op itself."""
    if traced or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return torch.ops.piip.deform_attn_forward.default(*inputs)
    if torch.is_grad_enabled() and any(t.requires_grad for t in inputs[:3]):
        return cast(Tensor, _Eager.apply(*inputs))
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.piip.deform_attn_forward.default(*inputs)


@register_flop_formula(torch.ops.piip.deform_attn_forward)
def _flops(value_shape: torch.Size, offsets_shape: torch.Size, *args: Any, **kwargs: Any) -> int:
    """2 * MACs; MACs = 5 per query, head, point and channel: four bilinear corners, and the point's weight in the sum.

    The released PIIP counts also take 5 per query, point and channel (but with the query's full width, before `ratio`).
    """
    batch, num_queries, num_heads, num_points, _ = offsets_shape
    return 2 * 5 * batch * num_queries * num_heads * num_points * value_shape[3]
