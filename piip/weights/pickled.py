"""Arrays out of a Python pickle, as Detectron's `.pkl` files are: plain containers and numbers, and nothing of the file is ever run.

A pickle names functions and calls them. Here the few names that NumPy's arrays need are answered with stand-ins that keep what they
are given; every other name is refused. Arrays are made of the kept bytes only when all has been read: NumPy's own reading of a forged
type could be made to follow pointers.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override


class PickleError(ValueError):
    """A pickle that is not one of arrays; the reason in a few words."""


_KINDS = "fiub"
"""Of NumPy's types: real numbers, whole ones with and without sign, truth."""


class _Kept:
    """Stands in for an array, its type or a single number; keeps arguments and state."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Kept):
    """`numpy.core.multiarray._reconstruct(type, shape, letter)`; its state is version, shape, type, order, bytes."""


class _Type(_Kept):
    """`numpy.dtype(letters, ..)`; its state begins with version and order of bytes."""


class _Number(_Kept):
    """`numpy.core.multiarray.scalar(type, bytes)`."""


def _bytes(text: Any, encoding: Any = "latin1") -> bytes:
    """`_codecs.encode`, by which Python 3 writes bytes for Python 2."""
    return str(text).encode("latin1") if encoding == "latin1" else b""


KNOWN: dict[str, Any] = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _Number,
    "numpy._core.multiarray.scalar": _Number,
    "numpy.ndarray": _Kept,
    "numpy.dtype": _Type,
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _bytes,
}
"""Names that a file may use -> what answers."""


class _Unpickler(pickle.Unpickler):
    @override
    def find_class(self, module_name: str, global_name: str) -> Any:
        asked = f"{module_name}.{global_name}"
        if asked not in KNOWN:
            raise PickleError(f"its pickle asks for {asked}, which is no part of an array")
        return KNOWN[asked]

    @override
    def persistent_load(self, pid: Any) -> NoReturn:
        raise PickleError("its pickle refers to something outside the file")


def load_pickle(path: Path) -> Any:
    """What a pickle of arrays in plain containers holds, arrays as tensors.

    Raises:
        PickleError: It asks for anything else.
        Exception: It is damaged, which can end in any way.
    """
    with path.open("rb") as file:
        # Detectron wrote with Python 2, whose strings are bytes
        return _plain(_Unpickler(file, encoding="latin1").load())


def _plain(kept: Any) -> Any:
    """Containers as they are, stand-ins as what they stand for."""
    match kept:
        case dict():
            return {key: _plain(value) for key, value in kept.items()}
        case list() | tuple():
            return [_plain(value) for value in kept]
        case _Array():
            return _tensor(kept)
        case _Number():
            return _numbers(kept.args[0], kept.args[1]).item()
        case _:
            return kept


def _tensor(kept: _Array) -> Tensor:
    _, shape, kind, fortran, content = kept.state
    numbers = _numbers(kind, content)
    made = numbers.reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(np.ascontiguousarray(made))


def _numbers(kind: _Type, content: Any) -> "np.ndarray[Any, Any]":
    """The flat numbers of an array's bytes."""
    letters, order = str(kind.args[0]), kind.state[1] if kind.state else "="
    if letters[:1] not in _KINDS or not letters[1:].isdigit():
        raise PickleError(f"one of its arrays holds {letters!r}, not plain numbers")
    content = content.encode("latin1") if isinstance(content, str) else content
    dtype = np.dtype(("<" if order not in (">", "<") else order) + letters)
    return np.frombuffer(content, dtype).astype(dtype.newbyteorder("="))
