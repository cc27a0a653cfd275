"""Deformable attention from the output of one linear layer: offsets and logits of a query side by side in one tensor.

Two layers read the queries twice and add two gradients; one layer with both weights after each other does neither, and its
output needs no copy. Measured on one core, fp32, with gradients: 22 % less time in the linear layers at 13720 queries of 192 channels.
"""

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import register_flop_formula

from piip.ops.deform_attn import deform_attn
from piip.ops.eager import run_op
from piip.ops.kernels import active_kernel

# B batch, Q queries, N heads, P points, D channels per head


def deform_attn_packed(
    value: Tensor, packed: Tensor, value_hw: tuple[int, int], query_hw: tuple[int, int], *, kernel: str = "auto"
) -> Tensor:
    """`deform_attn` from what one linear layer gives: `offsets` and `logits` are views of `packed`, and so are their gradients.

    The layer's weight is that of the offsets' layer and that of the logits' layer after each other, so checkpoints may keep two:
    `F.linear(query, torch.cat([offsets.weight, logits.weight]), torch.cat([offsets.bias, logits.bias]))`.

    Args:
        value: (B, Hv * Wv, N, D) pixels of the map, row by row.
        packed: (B, Hq * Wq, 3 * N * P): first x, y of every head's points, then every head's logits.
        value_hw: Rows and columns of the value map.
        query_hw: Rows and columns of the query grid.
        kernel: As for `deform_attn`. "cpp" reads packed float32 and bf16, "cuda" float32 and the value's dtype; all else gets
            the two views.

    Returns:
        (B, Hq * Wq, N * D) in the dtype of `value`.

    Raises:
        ValueError: Shapes do not fit each other, or there is no such kernel.
        RuntimeError: A kernel was asked for by name and cannot run here.
    """
    check(value, packed, value_hw, query_hw)
    without_data = value.is_meta or isinstance(value, FakeTensor)
    chosen = "" if without_data else active_kernel(kernel, value.device.type)
    if not readable(value, packed, chosen):
        offsets, logits = _apart(packed, value.shape[2])
        return deform_attn(value, offsets, logits, value_hw, query_hw, kernel=kernel)
    return run_op(_FORWARD, _differentiate, value, packed, *value_hw, *query_hw)


def check(value: Tensor, packed: Tensor, value_hw: tuple[int, int], query_hw: tuple[int, int]) -> None:
    """Raises ValueError where shapes do not fit each other."""
    num_heads, width = value.shape[2], packed.shape[-1]
    if packed.dim() != 3 or width == 0 or width % (3 * num_heads):
        raise ValueError(
            f"packed must be (B, Hq * Wq, 3 * N * P) with N = {num_heads} heads, as value {tuple(value.shape)} has; "
            f"got {tuple(packed.shape)}"
        )
    wanted = (value.shape[0], query_hw[0] * query_hw[1], width)
    if packed.shape != wanted or value.shape[1] != value_hw[0] * value_hw[1]:
        raise ValueError(
            f"value {tuple(value.shape)}, value_hw {tuple(value_hw)} and query_hw {tuple(query_hw)} ask for "
            f"{value_hw[0] * value_hw[1]} pixels and packed {wanted}, got {value.shape[1]} and {tuple(packed.shape)}"
        )


def readable(value: Tensor, packed: Tensor, kernel: str) -> bool:
    """Whether a kernel reads these dtypes as they are."""
    cpp = (torch.float32, torch.bfloat16)
    if kernel == "cpp":
        return value.dtype in cpp and packed.dtype in cpp
    return kernel == "cuda" and value.dtype in (*cpp, torch.float16) and packed.dtype in (torch.float32, value.dtype)


def _apart(packed: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    offsets, logits = packed.split([packed.shape[-1] // 3 * 2, packed.shape[-1] // 3], -1)
    return offsets.unflatten(-1, (num_heads, -1, 2)), logits.unflatten(-1, (num_heads, -1))


_LIBRARY = torch.library.Library("piip", "FRAGMENT")
_SHAPES = "SymInt value_height, SymInt value_width, SymInt query_height, SymInt query_width"
_LIBRARY.define(f"deform_attn_packed_forward(Tensor value, Tensor packed, {_SHAPES}) -> Tensor")
_LIBRARY.define(
    f"deform_attn_packed_backward(Tensor grad_out, Tensor value, Tensor packed, {_SHAPES}, *, bool deterministic=False) "
    "-> (Tensor, Tensor)"
)
_FORWARD = torch.ops.piip.deform_attn_packed_forward.default
_BACKWARD = torch.ops.piip.deform_attn_packed_backward.default


@torch.library.register_fake("piip::deform_attn_packed_forward", lib=_LIBRARY)
def _(value: Tensor, packed: Tensor, *hw: int) -> Tensor:
    return value.new_empty(value.shape[0], packed.shape[1], value.shape[2] * value.shape[3])


@torch.library.register_fake("piip::deform_attn_packed_backward", lib=_LIBRARY)
def _(grad_out: Tensor, value: Tensor, packed: Tensor, *hw: int, deterministic: bool = False) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(value, memory_format=torch.contiguous_format),
        torch.empty_like(packed, memory_format=torch.contiguous_format),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, packed, *hw = inputs
    ctx.save_for_backward(value, packed)
    ctx.hw = hw


def _differentiate(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    return *_BACKWARD(grad_out, *ctx.saved_tensors, *ctx.hw, deterministic=deterministic), None, None, None, None


def _no_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError("the compiled deform_attn_packed has no second derivative; take kernel='reference'")


torch.library.register_autograd("piip::deform_attn_packed_forward", _differentiate, setup_context=_keep, lib=_LIBRARY)
torch.library.register_autograd("piip::deform_attn_packed_backward", _no_second_derivative, lib=_LIBRARY)


@register_flop_formula(torch.ops.piip.deform_attn_packed_forward)
def flops(value_shape: torch.Size, packed_shape: torch.Size, *args: Any, **kwargs: Any) -> int:
    """As for `deform_attn`: 2 * 5 MACs per query, head, point and channel; packed has 3 numbers per query, head and point."""
    return 2 * 5 * packed_shape[0] * packed_shape[1] * packed_shape[2] // 3 * value_shape[3]
