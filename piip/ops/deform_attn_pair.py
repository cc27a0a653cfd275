"""Deformable attention of both directions of an interaction unit, which wait for nothing of each other: one launch on a GPU, not two.

A direction of PIIP-TSB's at 1568x1120 is 40000 to 220000 threads; an H100 holds about 150000. Two launches leave it idle at the end of
each; and the value's gradients are zeroed, added up and rounded by three kernels in place of six.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import register_flop_formula

from piip.ops import deform_attn_packed as packed_op
from piip.ops.eager import run_op
from piip.ops.kernels import active_kernel


class Direction(NamedTuple):
    """What `deform_attn_packed` takes."""

    value: Tensor
    packed: Tensor
    value_hw: tuple[int, int]
    query_hw: tuple[int, int]


def deform_attn_pair(one: Direction, other: Direction, *, kernel: str = "auto") -> tuple[Tensor, Tensor]:
    """`deform_attn_packed` of two directions, with the same bits (but for the order in which a GPU adds gradients up).

    Only kernel "cuda" computes both in one launch, where csrc/deform_attn_cuda.h has code for the two widths (the narrower first) and
    finds that it pays; what cannot be paired is two launches.

    Args:
        one: Of the narrower heads.
        other: The other direction.
        kernel: As for `deform_attn_packed`.

    Returns:
        (B, Hq * Wq, N * D) of each.

    Raises:
        ValueError: As `deform_attn_packed`.
        RuntimeError: As `deform_attn_packed`.
    """
    if not all(_by_cuda(direction, kernel) for direction in (one, other)):
        first, second = (packed_op.deform_attn_packed(*direction, kernel=kernel) for direction in (one, other))
        return first, second
    for direction in (one, other):
        packed_op.check(*direction)
    hw = [*one.value_hw, *one.query_hw, *other.value_hw, *other.query_hw]
    return run_op(_FORWARD, _differentiate, one.value, one.packed, other.value, other.packed, hw)


def _by_cuda(direction: Direction, kernel: str) -> bool:
    value, packed = direction.value, direction.packed
    if value.device.type != "cuda" or isinstance(value, FakeTensor):
        return False
    return active_kernel(kernel, "cuda", value.dtype) == "cuda" and packed_op.readable(value, packed, "cuda")


_LIBRARY = torch.library.Library("piip", "FRAGMENT")
_INPUTS = "Tensor value, Tensor packed, Tensor other_value, Tensor other_packed, SymInt[] hw"
_LIBRARY.define(f"deform_attn_pair_forward({_INPUTS}) -> (Tensor, Tensor)")
_LIBRARY.define(
    f"deform_attn_pair_backward(Tensor grad_out, Tensor other_grad_out, {_INPUTS}, *, bool deterministic=False) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
_FORWARD = torch.ops.piip.deform_attn_pair_forward.default
_BACKWARD = torch.ops.piip.deform_attn_pair_backward.default


# csrc/ has them for CUDA; anywhere else, fake tensors too, they are two calls.
@torch.library.register_fake("piip::deform_attn_pair_forward", lib=_LIBRARY)
@torch.library.impl(_LIBRARY, "deform_attn_pair_forward", "CPU")
def _forward(
    value: Tensor, packed: Tensor, other_value: Tensor, other_packed: Tensor, hw: Sequence[int]
) -> tuple[Tensor, Tensor]:
    op = torch.ops.piip.deform_attn_packed_forward.default
    return op(value, packed, *hw[:4]), op(other_value, other_packed, *hw[4:])


@torch.library.register_fake("piip::deform_attn_pair_backward", lib=_LIBRARY)
@torch.library.impl(_LIBRARY, "deform_attn_pair_backward", "CPU")
def _backward(
    grad_out: Tensor,
    other_grad_out: Tensor,
    value: Tensor,
    packed: Tensor,
    other_value: Tensor,
    other_packed: Tensor,
    hw: Sequence[int],
    *,
    deterministic: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    op = torch.ops.piip.deform_attn_packed_backward.default
    return (
        *op(grad_out, value, packed, *hw[:4], deterministic=deterministic),
        *op(other_grad_out, other_value, other_packed, *hw[4:], deterministic=deterministic),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, hw = inputs
    ctx.save_for_backward(*tensors)
    ctx.hw = (hw,)


def _differentiate(ctx: Any, *grads_out: Tensor) -> tuple[Tensor | None, ...]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    return *_BACKWARD(*grads_out, *ctx.saved_tensors, *ctx.hw, deterministic=deterministic), None


def _no_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError("the compiled deform_attn_pair has no second derivative; take kernel='reference'")


torch.library.register_autograd("piip::deform_attn_pair_forward", _differentiate, setup_context=_keep, lib=_LIBRARY)
torch.library.register_autograd("piip::deform_attn_pair_backward", _no_second_derivative, lib=_LIBRARY)


@register_flop_formula(torch.ops.piip.deform_attn_pair_forward)
def _flops(
    value: torch.Size, packed: torch.Size, other_value: torch.Size, other_packed: torch.Size, *args: Any, **kwargs: Any
) -> int:
    return packed_op.flops(value, packed) + packed_op.flops(other_value, other_packed)
