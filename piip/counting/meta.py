"""Networks without values, for counting and checking: on the meta device, where drawing initial weights is skipped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_VALUES_ONLY = {
    Tensor.add_, Tensor.clamp_, Tensor.erfinv_, Tensor.fill_, Tensor.mul_, Tensor.normal_, Tensor.uniform_, Tensor.zero_,
}  # fmt: skip
"""What initialisers are made of; a tensor without values is the same after them."""
_SAME_SHAPE = {F.gelu, F.group_norm, F.layer_norm}
"""What a forward pass is full of, and what gives a tensor like its first argument."""


class _ShapesAlone(TorchFunctionMode):
    """PyTorch works out each of these operators in Python, step by step: a third of the time of building and counting a network."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _VALUES_ONLY and args[0].is_meta:
            return args[0]
        if func in _SAME_SHAPE and args[0].is_meta:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


@contextmanager
def on_meta() -> Iterator[None]:
    """Modules and tensors made inside have shapes and types, take no memory and little time; forward passes give no gradients."""
    with torch.device("meta"), _ShapesAlone():
        yield
