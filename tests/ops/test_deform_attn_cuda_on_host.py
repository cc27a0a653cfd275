"""The arithmetic and the launches of the CUDA kernels, run on the CPU: csrc/deform_attn_cuda.cu through tests/ops/cuda_on_host.h.

What this cannot show: that atomics of many threads at once are right, and how fast anything is. `pytest -m gpu` does.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from piip.ops import build
from piip.ops.deform_attn import reference

HERE = Path(__file__).parent
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
TYPES = {FP32: "Float", FP16: "Half", BF16: "BFloat"}
INTEGERS = ("batch", "heads", "channels", "points", "value_height", "value_width", "query_height", "query_width")
POINTERS = (
    "value",
    "offsets",
    "logits",
    "grad_out",
    "out",
    "grad_value",
    "grad_offsets",
    "grad_logits",
    "sums",
    "largest",
)


class Call(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_int64) for name in INTEGERS), *((name, ctypes.c_void_p) for name in POINTERS)]


@pytest.fixture(scope="module")
def on_host(tmp_path_factory):
    """(dtype of the value, dtype of offsets and logits, architecture) -> library; compiled when asked for."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    folder, libraries = tmp_path_factory.mktemp("cuda_on_host"), {}

    def library(value: torch.dtype, location: torch.dtype, architecture: int = 900) -> ctypes.CDLL:
        key = f"{TYPES[value]}_{TYPES[location]}_{architecture}"
        if key not in libraries:
            names = (f"-DPIIP_VALUE={TYPES[value]}", f"-DPIIP_LOCATION={TYPES[location]}", "-DPIIP_STORAGE=storage")
            flags = ("-std=c++20", "-O1", "-w", "-fPIC", "-shared", f"-I{build.sources()}")
            target = str(folder / f"{key}.so")
            subprocess.run(
                [
                    "g++",
                    *flags,
                    f"-D__CUDA_ARCH__={architecture}",
                    *names,
                    str(HERE / "cuda_on_host.cpp"),
                    "-o",
                    target,
                ],
                check=True,
            )
            libraries[key] = ctypes.CDLL(target)
        return libraries[key]

    return library


def inputs(dim, points, value_hw, query_hw, value=FP32, location=FP32, *, heads=3, batch=2, scatter=3.0):
    """Value, offsets, logits and a gradient of the output."""
    generator = torch.Generator().manual_seed(dim * 10 + points)
    queries = query_hw[0] * query_hw[1]
    shapes = (
        (batch, value_hw[0] * value_hw[1], heads, dim),
        (batch, queries, heads, points, 2),
        (batch, queries, heads, points),
    )
    tensors = [torch.randn(shape, generator=generator) for shape in (*shapes, (batch, queries, heads * dim))]
    tensors = [t.to(dtype) for t, dtype in zip(tensors, (value, location, location, value), strict=True)]
    # The gradient of a location jumps where it is that of a pixel; fp32 and fp64 may then be on either side. Small dtypes hit it.
    rows, columns = torch.meshgrid(*(torch.arange(n).double() + 0.5 for n in query_hw), indexing="ij")
    centres = (
        torch.stack([columns / query_hw[1] * value_hw[1], rows / query_hw[0] * value_hw[0]], -1).view(queries, 1, 1, 2)
        - 0.5
    )
    tensors[1] *= scatter
    places = centres + tensors[1].double()
    tensors[1] += 0.25 * ((places - places.round()).abs() < 1e-3)
    return tensors


def run(library, tensors, value_hw, query_hw, *, deterministic=False):
    """Output and gradients, as deform_attn_cuda.cpp calls the kernels."""
    value, offsets, logits, grad_out = tensors
    out, grad_value, grad_offsets = torch.empty_like(grad_out), torch.empty_like(value), torch.empty_like(offsets)
    widths = (6, 12, 24, 32, 40, 100)
    special = value.shape[3] in widths and logits.shape[3] == 4
    grad_logits = torch.empty_like(logits, dtype=logits.dtype if special else FP32)
    sums = torch.zeros_like(value, dtype=torch.int64 if deterministic else FP32)
    if sums.dtype == value.dtype:
        sums = grad_value.zero_()
    largest = torch.zeros(1, dtype=torch.int32) if deterministic else None
    arrays = (value, offsets, logits, grad_out, out, grad_value, grad_offsets, grad_logits, sums, largest)
    sizes = (value.shape[0], value.shape[2], value.shape[3], logits.shape[3], *value_hw, *query_hw)
    call = Call(*sizes, *(t.data_ptr() if t is not None else None for t in arrays))
    library.forward(ctypes.byref(call))
    library.backward(ctypes.byref(call))
    return out, grad_value, grad_offsets, grad_logits.to(logits.dtype)


def exact(tensors, value_hw, query_hw):
    *given, grad_out = (t.double() for t in tensors)
    given = [t.requires_grad_() for t in given]
    out = reference(*given, value_hw, query_hw)
    return out.detach(), *torch.autograd.grad(out, given, grad_out)


TOLERANCE = {FP32: 2e-6, FP16: 1e-3, BF16: 8e-3}


def assert_close(actual, expected):
    """To a part of the largest entry: a unit in the last place of the storage, a few of float32."""
    for a, e in zip(actual, expected, strict=True):
        assert (a.double() - e).abs().max() <= TOLERANCE[a.dtype] * max(1.0, e.abs().max().item())


@pytest.mark.parametrize("points", [4, 3])
@pytest.mark.parametrize("dim", [1, 6, 12, 16, 24, 32, 40, 70, 100])
@pytest.mark.parametrize("types", [(FP32, FP32), (BF16, BF16), (FP16, FP32)])
def test_every_width_is_the_reference(on_host, types, dim, points):
    tensors = inputs(dim, points, (3, 4), (2, 5), *types)
    assert_close(run(on_host(*types), tensors, (3, 4), (2, 5)), exact(tensors, (3, 4), (2, 5)))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    ("heads", "value_hw", "query_hw"),
    [(16, (7, 9), (5, 6)), (5, (1, 1), (3, 3)), (1, (9, 2), (1, 40)), (131, (2, 2), (2, 2))],
)
def test_every_grid_of_blocks_is_the_reference(on_host, heads, value_hw, query_hw, deterministic):
    tensors = inputs(12, 4, value_hw, query_hw, heads=heads)
    actual = run(on_host(FP32, FP32), tensors, value_hw, query_hw, deterministic=deterministic)
    assert_close(actual, exact(tensors, value_hw, query_hw))


@pytest.mark.parametrize("dim", [6, 32, 7])
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e30])
def test_sums_in_fixed_point_are_exact_for_gradients_of_any_size(on_host, size, dim):
    tensors = inputs(dim, 4, (3, 4), (2, 5))
    tensors[3] *= size
    _, grad_value, *_ = run(on_host(FP32, FP32), tensors, (3, 4), (2, 5), deterministic=True)
    _, expected, *_ = exact(tensors, (3, 4), (2, 5))
    assert (grad_value.double() - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_fixed_point_shows_gradients_that_are_no_numbers(on_host, bad):
    tensors = inputs(6, 4, (3, 4), (2, 5))
    tensors[3][0, 0, 0] = bad
    _, grad_value, *_ = run(on_host(FP32, FP32), tensors, (3, 4), (2, 5), deterministic=True)
    assert grad_value.isnan().all()


@pytest.mark.parametrize(("dim", "points"), [(6, 4), (32, 4), (5, 3)])
@pytest.mark.parametrize("architecture", [800, 900])
def test_nan_and_inf_do_not_leak_to_points_outside_the_map(on_host, dim, points, architecture):
    value, offsets, logits, grad_out = inputs(dim, points, (3, 3), (3, 3))
    value.fill_(float("inf"))
    value[:, 4] = float("nan")
    offsets = offsets.sign() * torch.tensor([4.0, 1e30])  # all of them beside the map
    outcome = run(on_host(FP32, FP32, architecture), [value, offsets, logits, grad_out], (3, 3), (3, 3))
    assert all((t == 0).all() for t in outcome)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_location_that_is_no_number_shows_in_its_own_head_only(on_host, bad):
    tensors = inputs(6, 4, (5, 7), (4, 3))
    expected = run(on_host(FP32, FP32), tensors, (5, 7), (4, 3))[0].view(2, 12, 3, 6)
    tensors[1][1, 5, 2, 3, 0] = bad
    out = run(on_host(FP32, FP32), tensors, (5, 7), (4, 3))[0].view(2, 12, 3, 6)
    assert out[1, 5, 2].isnan().all()
    out[1, 5, 2] = expected[1, 5, 2]
    assert torch.equal(out, expected)
