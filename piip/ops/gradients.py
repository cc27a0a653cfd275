"""Gives a compiled op its gradient, which is another compiled op."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from piip.ops.eager import run_op


def differentiable(op: str, library: torch.library.Library) -> Callable[..., Tensor]:
    """Registers `piip::<op>_backward` as the gradient of `piip::<op>_forward`, and returns what calls the latter.

    The forward op takes tensors first, then sizes. The backward op takes the gradient of the output, the same, and whether
    its bits must not vary (`deterministic`); it gives a gradient for each tensor, and has no gradient of its own.
    """
    forward_op = getattr(torch.ops.piip, f"{op}_forward").default
    backward_op = getattr(torch.ops.piip, f"{op}_backward").default

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        tensors = [i for i in inputs if isinstance(i, Tensor)]
        ctx.save_for_backward(*tensors)
        ctx.hw = inputs[len(tensors) :]  # named as in run_op

    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        deterministic = torch.are_deterministic_algorithms_enabled()
        gradients = backward_op(grad_out, *ctx.saved_tensors, *ctx.hw, deterministic=deterministic)
        return *gradients, *(None for _ in ctx.hw)

    def no_second_derivative(ctx: Any, *grads: Any) -> None:
        raise NotImplementedError(f"the compiled {op} has no second derivative; take kernel='reference'")

    torch.library.register_autograd(f"piip::{op}_forward", backward, setup_context=keep, lib=library)
    torch.library.register_autograd(f"piip::{op}_backward", no_second_derivative, lib=library)
    return partial(run_op, forward_op, backward)
