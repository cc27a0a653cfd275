"""Gives a compiled op its gradient, for tracers and, by a shorter way, for eager calls."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def differentiable(op: str, library: torch.library.Library) -> Callable[..., Tensor]:
    """Registers `piip::<op>_backward` as the gradient of `piip::<op>_forward`, and returns what calls the latter.

    The backward op takes the gradient of the output and all inputs of the forward op; it gives a gradient for each of their
    tensors. It has no gradient of its own.
    """
    forward_op = getattr(torch.ops.piip, f"{op}_forward").default
    backward_op = getattr(torch.ops.piip, f"{op}_backward").default

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any = None) -> None:
        ctx.save_for_backward(*(i for i in inputs if isinstance(i, Tensor)))
        ctx.numbers = [None if isinstance(i, Tensor) else i for i in inputs]  # None: here was a tensor

    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        tensors = iter(ctx.saved_tensors)
        inputs = [next(tensors) if number is None else number for number in ctx.numbers]
        gradients = iter(backward_op(grad_out, *inputs))
        return tuple(next(gradients) if number is None else None for number in ctx.numbers)

    def no_second_derivative(ctx: Any, *grads: Any) -> None:
        raise NotImplementedError(f"the compiled {op} has no second derivative; take kernel='reference'")

    torch.library.register_autograd(f"piip::{op}_forward", backward, setup_context=keep, lib=library)
    torch.library.register_autograd(f"piip::{op}_backward", no_second_derivative, lib=library)

    class Eager(torch.autograd.Function):
        """What `register_autograd` does; its general machinery takes longer than the kernel of a small map."""

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Tensor:
            keep(ctx, inputs)
            with torch._C._AutoDispatchBelowAutograd():
                return forward_op(*inputs)

        @staticmethod
        def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
            if torch.is_grad_enabled():  # asks for a graph of the gradients: the op says that there is none
                return backward(ctx, grad_out)
            with torch._C._AutoDispatchBelowAutograd():
                return backward(ctx, grad_out)

    def run(*inputs: Any) -> Tensor:
        tensors = [i for i in inputs if isinstance(i, Tensor)]
        if torch.compiler.is_compiling() or any(t.is_meta or isinstance(t, FakeTensor) for t in tensors):
            return forward_op(*inputs)  # who traces shall see the op itself
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return cast(Tensor, Eager.apply(*inputs))
        with torch._C._AutoDispatchBelowAutograd():
            return forward_op(*inputs)

    return run
