"""The ways to compute deformable attention that gpu_kernels.py lets compete."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpu_cases import Direction, Size, centres_and_size
from torch import Tensor

from piip.ops.deform_attn import deform_attn, reference
from piip.ops.deform_attn_packed import deform_attn_packed
from piip.ops.deform_attn_pair import Direction as UnitDirection
from piip.ops.deform_attn_pair import deform_attn_pair


@dataclass(frozen=True)
class Method:
    """`call(value, offsets, logits, value_hw, query_hw)`, or `call(value, packed, value_hw, query_hw)`."""

    call: Callable[..., Tensor]
    both: Callable[[Any, Any], tuple[Tensor, Tensor]] | None = None
    """The two directions of a unit in one call, each (value, packed, value_hw, query_hw)."""
    packed: bool = False
    deterministic: bool = False
    together: int = 1
    """Directions that run at once, each on a stream of its own: a graph's kernels wait for those of their stream only."""

    def inputs(self, direction: Direction, storage: str, device: str) -> tuple[list[Tensor], Tensor]:
        """Leaves that want gradients, and a gradient of the output."""
        (value, offsets, logits), grad_out = direction.tensors(storage, device)
        packed = [torch.cat([offsets.flatten(2), logits.flatten(2)], -1)]
        given = [value, *(packed if self.packed else [offsets, logits])]
        return [t.requires_grad_() for t in given], grad_out

    def __call__(self, given: Sequence[Tensor], direction: Direction) -> Tensor:
        """The output."""
        with _deterministic(self.deterministic):
            return self.call(*given, direction.value_hw, direction.query_hw)

    def units(self, directions: Sequence[Direction]) -> Iterator[slice]:
        """What `both` takes at once of a case's directions; nothing where the method has no such form, or the case no unit."""
        if self.both and len(directions) % 2 == 0:
            for first in range(0, len(directions), 2):
                yield slice(first, first + 2)

    def unit(self, given: Sequence[Sequence[Tensor]], directions: Sequence[Direction]) -> tuple[Tensor, Tensor]:
        """The outputs of two directions."""
        assert self.both
        one, other = ((*g, d.value_hw, d.query_hw) for g, d in zip(given, directions, strict=True))
        with _deterministic(self.deterministic):
            return self.both(one, other)

    def gradients(
        self, out: Tensor | Sequence[Tensor], given: Sequence[Tensor], grad_out: Tensor | Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Gradients of the leaves."""
        with _deterministic(self.deterministic):
            return torch.autograd.grad(out, given, grad_out, retain_graph=True)


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted)
    # its help to find bugs, filling new tensors, is no part of the method
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class _Ops(torch.autograd.Function):
    """A forward op, a backward op and its last arguments: ops that only this benchmark uses have no gradient registered."""

    @staticmethod
    def forward(ctx: Any, forward: Any, backward: Any, *inputs: Any) -> Tensor:
        ctx.save_for_backward(*inputs[:3])
        ctx.differentiate, ctx.hw = backward, inputs[3:]
        return forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradients = ctx.differentiate(grad_out.contiguous(), *ctx.saved_tensors, *ctx.hw)
        return None, None, *gradients, None, None, None, None


def with_sums(value: Tensor, offsets: Tensor, logits: Tensor, value_hw: Size, query_hw: Size, *, kind: int) -> Tensor:
    """The CUDA kernels, the value's gradient added up in 0 floats, 1 int64 or 2 int32 in shared memory (csrc/deform_attn_cuda.h)."""

    def backward(*inputs: Any) -> tuple[Tensor, ...]:
        return torch.ops.piip.deform_attn_sums_backward(*inputs, kind)

    return _Ops.apply(torch.ops.piip.deform_attn_forward, backward, value, offsets, logits, *value_hw, *query_hw)


def classic(value: Tensor, offsets: Tensor, logits: Tensor, value_hw: Size, query_hw: Size) -> Tensor:
    """As the public modules: softmax and locations by PyTorch in float32, then the kernel."""
    centres, size = centres_and_size(value_hw, query_hw, str(value.device))
    locations, weights = centres + offsets.float() / size, logits.float().softmax(-1)
    ops = torch.ops.piip.deform_attn_classic_forward, torch.ops.piip.deform_attn_classic_backward
    return _Ops.apply(*ops, value.float(), locations, weights, *value_hw, *query_hw).to(value.dtype)


def plain(value: Tensor, offsets: Tensor, logits: Tensor, value_hw: Size, query_hw: Size) -> Tensor:
    """PyTorch ops in float32."""
    return reference(value.float(), offsets.float(), logits.float(), value_hw, query_hw).to(value.dtype)


def _pair(one: Any, other: Any) -> tuple[Tensor, Tensor]:
    return deform_attn_pair(UnitDirection(*one), UnitDirection(*other), kernel="cuda")


_packed = partial(deform_attn_packed, kernel="cuda")
METHODS: dict[str, Method] = {
    "cuda": Method(_packed, _pair, packed=True),
    "cuda, two launches": Method(_packed, packed=True),
    "cuda, two streams": Method(_packed, packed=True, together=2),
    "cuda, deterministic": Method(_packed, packed=True, deterministic=True),
    "cuda, apart": Method(partial(deform_attn, kernel="cuda")),
    "cuda, int64 sums": Method(partial(with_sums, kind=1)),
    "cuda, planes": Method(partial(with_sums, kind=2)),
    "triton": Method(partial(deform_attn, kernel="triton")),
    "classic": Method(classic),
    "plain": Method(plain),
    "compiled": Method(torch.compile(plain, dynamic=False)),
}
