"""The shortest way to a compiled op: small maps spend more time in PyTorch's general autograd machinery than in the kernel."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Eager(torch.autograd.Function):
    """What `torch.library.register_autograd` does, in half the time: 110 instead of 180 us for an op and its gradients."""

    @staticmethod
    def forward(ctx: Any, op: Any, differentiate: Any, *inputs: Any) -> Any:
        tensors = [t for t in inputs if isinstance(t, Tensor)]
        ctx.save_for_backward(*tensors)
        ctx.differentiate, ctx.hw = differentiate, inputs[len(tensors) :]
        with torch._C._AutoDispatchBelowAutograd():
            return op(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads_out: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # asks for a graph of the gradients: the op says that there is none
            return None, None, *ctx.differentiate(ctx, *grads_out)
        with torch._C._AutoDispatchBelowAutograd():
            return None, None, *ctx.differentiate(ctx, *grads_out)


def run_op(op: Any, differentiate: Callable[..., tuple[Tensor | None, ...]], *inputs: Any) -> Any:
    """`op(*inputs)`. Who traces or transforms it sees the op itself.

    Args:
        op: An overload, `torch.ops.piip.<name>.default`.
        differentiate: What was given to `register_autograd`; finds the tensors in `ctx.saved_tensors`, the sizes in `ctx.hw`.
        inputs: Tensors first, then sizes.

    Returns:
        What the op does: a tensor, or several.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return op(*inputs)
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in inputs):
        return _Eager.apply(op, differentiate, *inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*inputs)
