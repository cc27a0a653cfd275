"""What the ops share that have a reference and a C++ kernel: which of the two runs, and the dtypes it takes."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from piip.ops.kernels import active_kernel


def takes_reference(op: str, kernel: str, value: Tensor) -> bool:
    """Whether plain PyTorch runs `op`, as `active_kernel` chooses. Tensors without data (meta, fake) record the op itself.

    On devices other than the CPU there is the reference only: "auto" takes it, a kernel asked for by name is an error.

    Raises:
        ValueError: No such kernel.
        RuntimeError: `kernel` cannot run here.
    """
    if value.is_meta or isinstance(value, FakeTensor):
        return False
    if value.device.type == "cpu":
        return active_kernel(kernel) != "cpp"
    if kernel not in ("auto", "reference"):
        raise RuntimeError(f"kernel={kernel!r}: {op} has none on {value.device}. Take 'auto' or 'reference'.")
    return True


def prepare(*tensors: Tensor, bf16: bool) -> tuple[Tensor, ...]:
    """The tensors in the dtype of the arithmetic: float64 where the first is, else float32 (the C++ kernels also read `bf16`)."""
    arithmetic = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    keeps = bf16 and arithmetic == torch.float32
    return tuple(t if keeps and t.dtype == torch.bfloat16 else t.to(arithmetic) for t in tensors)
