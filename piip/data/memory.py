"""Memory of images and batches, used again: that of a new one costs more, page by page, than all that is written into it."""

import math
import mmap
import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

LARGE = 2**20
"""Bytes from which on it matters."""
_free: deque[mmap.mmap] = deque(maxlen=8)
"""What was given back, the latest last; what falls out the system gets. A loader has about so many images and batches under way."""


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """As `torch.empty`, of memory that comes back when nobody holds the tensor any more."""
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE or not hasattr(mmap, "MAP_PRIVATE"):
        return torch.empty(shape, dtype=dtype)
    # private: a process that is forked writes into pages of its own
    pages = _used(size) or mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held = np.frombuffer(pages, dtype=np.uint8, count=size)  # the tensor holds it
    weakref.finalize(held, _free.append, pages).atexit = False
    return torch.frombuffer(held, dtype=dtype).view(shape)


def _used(size: int) -> mmap.mmap | None:
    """Memory of that size or a little more, which is nobody else's from now on."""
    for _ in range(len(_free)):
        try:
            pages = _free.popleft()
        except IndexError:  # another thread took it
            return None
        if size <= len(pages) <= size + size // 4:
            return pages
        _free.append(pages)
    return None
