"""Networks without values, for counting and checking: on the meta device, where drawing initial weights is skipped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_VALUES_ONLY = {
    Tensor.add_, Tensor.clamp_, Tensor.erfinv_, Tensor.fill_, Tensor.mul_, Tensor.normal_, Tensor.uniform_, Tensor.zero_,
}  # fmt: skip
"""What initialisers are made of; a tensor without values is the same after them."""


class _NothingToDraw(TorchFunctionMode):
    """PyTorch works out the shape of each of these operators in Python: a third to a half of the time of building a network."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _VALUES_ONLY and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def on_meta() -> Iterator[None]:
    """Modules and tensors made inside have shapes and types, take no memory and little time."""
    with torch.device("meta"), _NothingToDraw():
        yield
