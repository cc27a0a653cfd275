"""What msda and dcnv3 share, which have a reference and kernels for the CPU and CUDA: which of them runs, and the dtypes it takes."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from piip.ops.kernels import active_kernel


def choose(op: str, kernel: str, value: Tensor) -> str:
    """What runs `op`: "reference", "cpp" or "cuda", as `active_kernel` chooses; "cpp" where tensors have no data (meta, fake).

    The latter record the op itself. There is no Triton kernel: where "auto" or PIIP_KERNEL come to "triton" the reference runs.

    Raises:
        ValueError: No such kernel.
        RuntimeError: `kernel` cannot run here.
    """
    if value.is_meta or isinstance(value, FakeTensor):
        return "cpp"
    if kernel == "triton":
        raise RuntimeError(f"kernel='triton': {op} has none. Take 'auto', 'cuda' or 'reference'.")
    chosen = active_kernel(kernel, value.device.type, value.dtype)
    return "reference" if chosen == "triton" else chosen


def prepare(value: Tensor, *others: Tensor, kernel: str) -> tuple[Tensor, ...]:
    """The tensors in dtypes that a kernel reads.

    The arithmetic is float64 where the value is, else float32. "cpp" also reads bf16; "cuda" float16 and bf16, the others all in
    one dtype, the value's or float32.
    """
    if kernel == "cuda":
        value = value if value.dtype in (torch.float16, torch.bfloat16) else value.float()
        location = value.dtype if all(t.dtype == value.dtype for t in others) else torch.float32
        return value, *(t.to(location) for t in others)
    arithmetic = torch.float64 if value.dtype == torch.float64 else torch.float32
    keeps = kernel == "cpp" and arithmetic == torch.float32
    return tuple(t if keeps and t.dtype == torch.bfloat16 else t.to(arithmetic) for t in (value, *others))
