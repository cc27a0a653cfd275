from types import SimpleNamespace

import pytest
import torch

from piip.ops import kernels
from piip.ops.choice import choose, prepare
from piip.ops.compiled import cpu, cuda
from piip.ops.kernels import active_kernel


@pytest.fixture
def problems(monkeypatch):
    """Why a kernel cannot run, by name; a test says."""
    problems = {"cpp": "", "cuda": "", "triton": ""}
    monkeypatch.delenv("PIIP_KERNEL", raising=False)
    monkeypatch.setattr(cpu, "problem", lambda: problems["cpp"])
    monkeypatch.setattr(cuda, "problem", lambda: problems["cuda"])
    monkeypatch.setattr(kernels, "_triton_problem", lambda: problems["triton"])
    return problems


def test_the_fastest_kernel_that_can_run_is_chosen(problems):
    assert active_kernel(device="cpu") == "cpp"
    assert active_kernel(device="cuda") == "cuda"
    problems["cuda"] = "no nvcc."
    assert active_kernel(device="cuda") == "triton"
    problems["triton"] = "not installed."
    assert active_kernel(device="cuda") == "reference"
    problems["cpp"] = "no g++."
    assert active_kernel(device="cpu") == "reference"
    assert active_kernel(device="mps") == "reference"


def test_float64_takes_the_reference_on_a_gpu(problems):
    assert active_kernel("auto", "cuda", torch.float64) == "reference"
    assert active_kernel("auto", "cpu", torch.float64) == "cpp"
    with pytest.raises(RuntimeError, match="the value is float64"):
        active_kernel("triton", "cuda", torch.float64)


@pytest.mark.parametrize(("kernel", "device"), [("cpp", "cuda"), ("cuda", "cpu"), ("triton", "cpu")])
def test_a_kernel_is_refused_on_the_other_kind_of_device(problems, kernel, device):
    with pytest.raises(RuntimeError, match=rf"kernel='{kernel}' runs on .*, the tensors are on {device}"):
        active_kernel(kernel, device)


@pytest.mark.parametrize("kernel", ["cuda", "triton"])
def test_a_kernel_that_cannot_run_says_why(problems, monkeypatch, kernel):
    problems[kernel] = "It is too cold."
    with pytest.raises(RuntimeError, match=r"cannot run: It is too cold. Or take 'reference'"):
        active_kernel(kernel, "cuda")
    monkeypatch.setenv("PIIP_KERNEL", kernel)
    with pytest.raises(RuntimeError, match=f"PIIP_KERNEL='{kernel}' cannot run"):
        active_kernel("auto", "cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_says_so(monkeypatch):
    monkeypatch.delenv("PIIP_KERNEL", raising=False)
    with pytest.raises(RuntimeError, match="PyTorch sees no CUDA GPU"):
        active_kernel("cuda", "cuda")


def on_gpu(dtype=torch.float32):
    return SimpleNamespace(device=torch.device("cuda"), dtype=dtype, is_meta=False)


def test_msda_and_dcnv3_take_their_cuda_kernel_or_plain_pytorch(problems, monkeypatch):
    assert choose("msda", "auto", on_gpu()) == "cuda"
    assert choose("msda", "auto", on_gpu(torch.float64)) == "reference"
    monkeypatch.setenv("PIIP_KERNEL", "triton")
    assert choose("msda", "auto", on_gpu()) == "reference"
    monkeypatch.delenv("PIIP_KERNEL")
    problems["cuda"] = "no nvcc."
    assert choose("msda", "auto", on_gpu()) == "reference"
    with pytest.raises(RuntimeError, match=r"kernel='cuda' cannot run: no nvcc. Or take 'reference'"):
        choose("msda", "cuda", on_gpu())
    with pytest.raises(RuntimeError, match=r"kernel='triton': dcnv3 has none. Take 'auto', 'cuda' or 'reference'"):
        choose("dcnv3", "triton", on_gpu())


@pytest.mark.parametrize(
    ("kernel", "given", "wanted"),
    [
        ("cuda", ("float16", "float16", "float16"), ("float16", "float16", "float16")),
        ("cuda", ("bfloat16", "float32", "bfloat16"), ("bfloat16", "float32", "float32")),
        ("cuda", ("bfloat16", "float16", "float16"), ("bfloat16", "float32", "float32")),
        ("cpp", ("float16", "bfloat16", "float32"), ("float32", "bfloat16", "float32")),
        ("reference", ("float64", "float32", "bfloat16"), ("float64", "float64", "float64")),
    ],
)
def test_tensors_get_dtypes_that_the_kernel_reads(kernel, given, wanted):
    tensors = prepare(*(torch.ones(2, dtype=getattr(torch, d)) for d in given), kernel=kernel)
    assert [t.dtype for t in tensors] == [getattr(torch, d) for d in wanted]
