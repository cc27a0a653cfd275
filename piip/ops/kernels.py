"""Which kernel does deformable attention: compiled for the CPU, CUDA, Triton, or plain PyTorch."""

import functools
import logging
import os
from importlib.util import find_spec

import torch

from piip.ops.compiled import cpu, cuda

log = logging.getLogger(__name__)

KERNELS = ("auto", "cpp", "cuda", "triton", "reference")
DEVICE = {
    "cpp": "cpu",
    "cuda": "cuda",
    "triton": "cuda",
}  # the kind of device a kernel runs on; "reference" runs anywhere


@torch.compiler.assume_constant_result
def active_kernel(request: str = "auto", device: str = "cpu", dtype: torch.dtype = torch.float32) -> str:
    """What `deform_attn` will run on a kind of device, for a `value` of a dtype: "cpp", "cuda", "triton" or "reference".

    "auto" is "cpp" on the CPU; on CUDA "cuda" where it can be built, else "triton"; "reference" where none of them can run. The first call
    compiles `csrc/` if nobody has; where that fails one log line says why.

    Raises:
        ValueError: No such kernel.
        RuntimeError: A kernel was asked for by name and cannot run here.
    """
    source = "kernel="
    if request == "auto":
        request, source = os.environ.get("PIIP_KERNEL") or "auto", "PIIP_KERNEL="
    if request not in KERNELS:
        raise ValueError(f"{source}{request!r}: no such kernel. There are: {', '.join(KERNELS)}")
    if request == "auto":
        return next((k for k in DEVICE if DEVICE[k] == device and not _problem(k, dtype)), "reference")
    if request == "reference":
        return request
    if device != DEVICE[request]:
        runs_on = {"cpu": "the CPU", "cuda": "a CUDA GPU"}[DEVICE[request]]
        raise RuntimeError(
            f"{source}{request!r} runs on {runs_on}, the tensors are on {device}. Take 'auto' or 'reference'."
        )
    if problem := _problem(request, dtype):
        raise RuntimeError(f"{source}{request!r} cannot run: {problem} Or take 'reference'.")
    return request


def _problem(kernel: str, dtype: torch.dtype) -> str:
    """Why a kernel cannot run, and what to do; empty where it can."""
    if DEVICE[kernel] == "cuda" and dtype == torch.float64:
        return "its arithmetic is float32, the value is float64."
    return {"cpp": cpu.problem, "cuda": cuda.problem, "triton": _triton_problem}[kernel]()


@functools.cache
def _triton_problem() -> str:
    if find_spec("triton") is not None:
        return ""
    log.warning("plain PyTorch runs on the GPU (same results, slower): Triton is not installed")
    return "Triton is not installed."
