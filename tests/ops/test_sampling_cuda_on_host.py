"""As test_deform_attn_cuda_on_host.py, for msda and dcnv3: csrc/sampling_cuda.cu through conftest.py's `on_host`."""

import ctypes
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from piip.ops import dcnv3, msda

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden"
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
TOLERANCE = {FP32: 3e-6, FP16: 1e-3, BF16: 8e-3}
LEVELS = [(5, 7), (3, 2), (1, 1)]
NARROW = ("value", "coordinates", "weights", "grad_out", "out", "grad_value", "grad_coordinates", "grad_weights")


class Tap(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_float) for name in ("scale_x", "scale_y", "shift_x", "shift_y")),
        *((name, ctypes.c_int32) for name in ("height", "width", "first")),
    ]


class Call(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "heads", "channels", "points", "pixels")),
        *((name, ctypes.c_int64) for name in ("query_height", "query_width", "points_per_tap")),
        *(("step", ctypes.c_double), ("taps", Tap * 64)),
        *((name, ctypes.c_void_p) for name in (*NARROW, "sums", "largest")),
    ]


def run(library, tensors, query_hw, taps, points_per_tap, step=0.0, *, deterministic=False):
    """Output and gradients, as sampling_cuda.cpp calls the kernels. value (B, S, N, D), weights (B, Q, N, K)."""
    value, coordinates, weights, grad_out = tensors
    (batch, pixels, heads, channels), points = value.shape, weights.shape[3]
    sums = torch.zeros_like(value, dtype=torch.int64 if deterministic else FP32)
    results = [torch.empty_like(t) for t in (grad_out, value, coordinates, weights)]
    if sums.dtype == value.dtype:
        results[1] = sums
    call = Call(batch, heads, channels, points, pixels, *query_hw, points_per_tap, step, (Tap * 64)(*taps))
    for name, tensor in zip((*NARROW, "sums"), (*tensors, *results, sums), strict=True):
        setattr(call, name, tensor.data_ptr())
    largest = torch.zeros(2, dtype=torch.int32)
    call.largest = largest.data_ptr() if deterministic else None
    library.forward(ctypes.byref(call))
    library.backward(ctypes.byref(call))
    return results


def run_msda(library, tensors, levels, **options):
    value, locations, weights, grad_out = tensors
    firsts = np.cumsum([0, *(h * w for h, w in levels)])
    taps = [Tap(w, h, -0.5, -0.5, h, w, int(first)) for (h, w), first in zip(levels, firsts, strict=False)]
    flat = (value, locations.flatten(3, 4), weights.flatten(3), grad_out)
    out, *gradients = run(library, flat, (1, locations.shape[1]), taps, locations.shape[4], **options)
    return out, *(g.view_as(t) for g, t in zip(gradients, tensors[:3], strict=True))


def run_dcnv3(library, tensors, kernel_size, stride, pad, dilation, groups, scale, remove_center, **options):
    value, offsets, mask, grad_out = tensors
    (batch, height, width, channels), (_, rows, columns, _) = value.shape, mask.shape
    half, tap_of = dilation * (kernel_size - 1) // 2, range(kernel_size)
    places = [
        (half - pad + scale * (i * dilation - half), half - pad + scale * (j * dilation - half))
        for i in tap_of
        for j in tap_of
    ]
    if remove_center:
        del places[(kernel_size**2 - 1) // 2]
    taps = [Tap(scale, scale, x, y, height, width, 0) for x, y in places]
    flat = (
        value.view(batch, height * width, groups, channels // groups),
        offsets.view(batch, rows * columns, groups, len(taps), 2),
        mask.view(batch, rows * columns, groups, len(taps)),
        grad_out.view(batch, rows * columns, channels),
    )
    results = run(library, flat, (rows, columns), taps, 1, float(stride), **options)
    return [r.view_as(t) for r, t in zip(results, (grad_out, value, offsets, mask), strict=True)]


def msda_inputs(dim, value=FP32, location=FP32, *, heads=3, points=3, queries=11):
    """Value, locations, weights and a gradient of the output. No location is that of a pixel: gradients jump there."""
    generator = torch.Generator().manual_seed(dim)
    shapes = [(2, sum(h * w for h, w in LEVELS), heads, dim), (2, queries, heads, len(LEVELS), points, 2)]
    tensors = [torch.randn(s, generator=generator) for s in (*shapes, shapes[1][:-1], (2, queries, heads * dim))]
    tensors = [t.to(dtype) for t, dtype in zip(tensors, (value, location, location, value), strict=True)]
    size = torch.tensor([[w, h] for h, w in LEVELS])[:, None]
    places = (0.5 + 0.4 * tensors[1].double()) * size - 0.5
    places += 0.01 * ((places - places.round()).abs() < 3e-3)
    tensors[1] = ((places + 0.5) / size).to(location)
    return tensors


def exact(op, tensors):
    *given, grad_out = (t.double() for t in tensors)
    given = [t.requires_grad_() for t in given]
    out = op(*given)
    return out.detach(), *torch.autograd.grad(out, given, grad_out.view_as(out))


def assert_close(actual, expected):
    """To a part of the largest entry: a unit in the last place of the storage, a few of float32."""
    for a, e in zip(actual, expected, strict=True):
        assert (a.double() - e).abs().max() <= TOLERANCE[a.dtype] * max(1.0, e.abs().max().item())


reference_msda = lambda v, c, w: msda.reference(v, LEVELS, c, w)  # noqa: E731


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dim", [1, 6, 16, 24, 32, 70])
@pytest.mark.parametrize("types", [(FP32, FP32), (BF16, FP32), (FP16, FP16)])
def test_msda_is_the_reference(on_host, types, dim, deterministic):
    tensors = msda_inputs(dim, *types)
    actual = run_msda(on_host(*types, op="sampling"), tensors, LEVELS, deterministic=deterministic)
    expected = exact(reference_msda, tensors)
    if (
        types[1] == FP16
    ):  # half a unit of a location moves its sample and jumps from cell to cell: compare what does not
        actual, expected = actual[:2], expected[:2]
    assert_close(actual, expected)


def test_official_numbers_of_msda(on_host):
    golden = {name: torch.from_numpy(a).float() for name, a in np.load(GOLDEN / "ops_deform_attn.npz").items()}
    weights = golden["logits"].softmax(-1)[:, :, :, None]
    tensors = (golden["value"], golden["locations"][:, :, :, None].contiguous(), weights, 2 * golden["out"])
    out, *gradients = run_msda(on_host(FP32, FP32, op="sampling"), tensors, [(5, 7)])
    torch.testing.assert_close(out, golden["out"], rtol=1e-4, atol=1e-5)
    for actual, name in zip(gradients, ("grad_value", "grad_locations", "grad_weights"), strict=True):
        wanted = golden[name].view_as(actual)
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=2e-5 * wanted.abs().max().item())


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("case", json.loads((GOLDEN / "dcnv3_op.json").read_text()))
def test_official_numbers_of_dcnv3(on_host, case, deterministic):
    said = json.loads((GOLDEN / "dcnv3_op.json").read_text())[case]
    arrays = np.load(GOLDEN / "dcnv3_op.npz")
    names = ("input", "offset", "mask", "grad_out", "output", "grad_input", "grad_offset", "grad_mask")
    *tensors, out, grad_value, grad_offsets, grad_mask = (torch.from_numpy(arrays[f"{case}/{n}"]) for n in names)
    geometry = [said[n] for n in ("kernel", "stride", "pad", "dilation", "group", "offset_scale", "remove_center")]
    tensors = [t.float().contiguous() for t in tensors]
    actual = run_dcnv3(on_host(FP32, FP32, op="sampling"), tensors, *geometry, deterministic=deterministic)
    for a, e in zip(actual, (out, grad_value, grad_offsets, grad_mask), strict=True):
        assert (a.double() - e).abs().max() <= 2e-5 * max(1.0, e.abs().max().item())


@pytest.mark.parametrize("dim", [16, 5])
@pytest.mark.parametrize("geometry", [(3, 2, 1, 1, 2, 1.0, True), (2, 1, 2, 2, 2, 0.5, False)])
def test_dcnv3_is_the_reference(on_host, geometry, dim):
    generator = torch.Generator().manual_seed(0)
    rows, columns = dcnv3.output_hw((6, 7), *geometry[:4])
    taps, groups = geometry[0] ** 2 - geometry[6], geometry[4]
    shapes = [(2, 6, 7, groups * dim), (2, rows, columns, 2 * groups * taps), (2, rows, columns, groups * taps)]
    tensors = [torch.randn(s, generator=generator) for s in (*shapes, (2, rows, columns, groups * dim))]
    expected = exact(partial(_reference_dcnv3, geometry), tensors)
    assert_close(run_dcnv3(on_host(FP32, FP32, op="sampling"), tensors, *geometry), expected)


def _reference_dcnv3(geometry, value, offsets, mask):
    return dcnv3.reference(value, offsets, mask, *geometry)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e18])
def test_sums_in_fixed_point_take_weights_of_any_size(on_host, size):
    tensors = msda_inputs(6)
    tensors[2] *= size
    _, grad_value, *_ = run_msda(on_host(FP32, FP32, op="sampling"), tensors, LEVELS, deterministic=True)
    _, expected, *_ = exact(reference_msda, tensors)
    assert (grad_value.double() - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("which", [2, 3])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_fixed_point_shows_weights_and_gradients_that_are_no_numbers(on_host, which, bad):
    tensors = msda_inputs(6)
    tensors[which].flatten()[5] = bad
    _, grad_value, *_ = run_msda(on_host(FP32, FP32, op="sampling"), tensors, LEVELS, deterministic=True)
    assert grad_value.isnan().all()


@pytest.mark.parametrize("dim", [16, 5])
def test_nan_and_inf_do_not_leak_to_points_outside_the_map(on_host, dim):
    value, locations, weights, grad_out = msda_inputs(dim)
    value.fill_(float("inf")).flatten()[::7] = float("nan")
    locations = locations.sign() * torch.tensor([1e3, 1e30])
    outcome = run_msda(on_host(FP32, FP32, op="sampling"), [value, locations, weights, grad_out], LEVELS)
    assert all((t == 0).all() for t in outcome)
