"""The arithmetic and the launches of the CUDA kernels, run on the CPU: csrc/deform_attn_cuda.cu through conftest.py's `on_host`.

What this cannot show: that atomics of many threads at once are right, and how fast anything is. `pytest -m gpu` does.
"""

import ctypes

import pytest
import torch

from piip.ops.deform_attn import reference

pytestmark = pytest.mark.slow

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
SIZES = ("batch", "heads", "channels", "points", "value_height", "value_width", "query_height", "query_width")
INTEGERS = (*SIZES, "offsets_row", "logits_row", "aligned")
POINTERS = ("value", "offsets", "logits", "grad_out", "out", "grad_value", "grad_offsets", "grad_logits")
FLOATS, INTEGERS_IN_MEMORY, PLANES = 0, 1, 2  # enum Sums of csrc/deform_attn_cuda.h
DETERMINISTIC = (INTEGERS_IN_MEMORY, PLANES)


class Call(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in INTEGERS),
        *((name, ctypes.c_void_p) for name in POINTERS),
        ("kind", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("sums", "largest", "kept")),
    ]


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


def run(library, tensors, value_hw, query_hw, *, sums=FLOATS, packed=False):
    """Output and gradients, as deform_attn_cuda.cpp calls the kernels; `packed`: offsets and logits lie side by side."""
    value, offsets, logits, grad_out = tensors
    (batch, queries, heads, points), size = logits.shape, logits.element_size()
    parts = [2 * heads * points, heads * points]
    rows = [sum(parts)] * 2 if packed else parts
    given, gradient = (
        torch.cat([offsets.flatten(2), logits.flatten(2)], -1) if packed else None,
        torch.full((batch, queries, sum(parts)), float("nan"), dtype=logits.dtype),
    )
    grad_offsets, grad_logits = gradient.split(parts, -1)
    if not packed:
        grad_offsets, grad_logits = grad_offsets.contiguous(), grad_logits.contiguous()
    out, grad_value = torch.empty_like(grad_out), torch.empty_like(value)
    added_up = torch.zeros_like(value, dtype=torch.int64 if sums == INTEGERS_IN_MEMORY else FP32)
    if sums == FLOATS and value.dtype == FP32:
        added_up = grad_value.zero_()
    call = Call(
        *(batch, heads, value.shape[3], points, *value_hw, *query_hw, *rows, not packed or rows[0] * size % 16 == 0)
    )
    arrays = {"value": value, "grad_out": grad_out, "out": out, "grad_value": grad_value, "sums": added_up}
    arrays |= {"grad_offsets": grad_offsets, "grad_logits": grad_logits, "kept": torch.empty(logits.shape, dtype=FP32)}
    arrays |= {"offsets": given, "logits": given[..., parts[0] :]} if packed else {"offsets": offsets, "logits": logits}
    if sums == INTEGERS_IN_MEMORY:
        arrays["largest"] = torch.zeros(2, dtype=torch.int32)
    call.kind = sums
    for name, array in arrays.items():
        setattr(call, name, array.data_ptr())
    library.forward(ctypes.byref(call))
    library.backward(ctypes.byref(call))
    return out, grad_value, grad_offsets.reshape(offsets.shape), grad_logits.reshape(logits.shape)


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


@pytest.mark.parametrize("heads", [2, 3])  # rows of three heads in bf16 are no multiple of 16 bytes
@pytest.mark.parametrize(("dim", "points"), [(6, 4), (32, 4), (7, 4), (12, 3)])
@pytest.mark.parametrize("types", [(FP32, FP32), (BF16, BF16), (FP16, FP32)])
def test_packed_offsets_and_logits_give_the_same_bits(on_host, types, dim, points, heads):
    tensors = inputs(dim, points, (3, 4), (2, 5), *types, heads=heads)
    apart = run(on_host(*types), tensors, (3, 4), (2, 5))
    packed = run(on_host(*types), tensors, (3, 4), (2, 5), packed=True)
    if types == (BF16, BF16) and heads == 3:  # another kernel adds up in another order
        return assert_close(packed, exact(tensors, (3, 4), (2, 5)))
    assert all(torch.equal(a, b) for a, b in zip(apart, packed, strict=True))


@pytest.mark.parametrize("sums", [FLOATS, *DETERMINISTIC])
@pytest.mark.parametrize(
    ("heads", "value_hw", "query_hw"),
    [(16, (7, 9), (5, 6)), (5, (1, 1), (3, 3)), (1, (9, 2), (1, 40)), (131, (2, 2), (2, 2))],
)
def test_every_grid_of_blocks_is_the_reference(on_host, heads, value_hw, query_hw, sums):
    tensors = inputs(12, 4, value_hw, query_hw, heads=heads)
    actual = run(on_host(FP32, FP32), tensors, value_hw, query_hw, sums=sums)
    assert_close(actual, exact(tensors, value_hw, query_hw))


@pytest.mark.parametrize("sums", DETERMINISTIC)
@pytest.mark.parametrize("dim", [6, 32, 7])
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e30])
def test_sums_in_fixed_point_are_exact_for_gradients_of_any_size(on_host, size, dim, sums):
    tensors = inputs(dim, 4, (3, 4), (2, 5))
    tensors[3] *= size
    _, grad_value, *_ = run(on_host(FP32, FP32), tensors, (3, 4), (2, 5), sums=sums)
    _, expected, *_ = exact(tensors, (3, 4), (2, 5))
    assert (grad_value.double() - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_integers_show_gradients_that_are_no_numbers(on_host, bad):
    tensors = inputs(6, 4, (3, 4), (2, 5))
    tensors[3][0, 0, 0] = bad
    assert run(on_host(FP32, FP32), tensors, (3, 4), (2, 5), sums=INTEGERS_IN_MEMORY)[1].isnan().all()
    planes = run(on_host(FP32, FP32), tensors, (3, 4), (2, 5), sums=PLANES)[1]
    assert planes[0, :, 0, :2].isnan().all()  # the image, head and channels of one block
    assert planes.isnan().sum() == 12 * 2


def test_planes_show_weights_that_are_no_numbers(on_host):
    tensors = inputs(6, 4, (3, 4), (3, 4), scatter=0.1)
    tensors[2][1, 2, 1, 0] = float("nan")
    grad_value = run(on_host(FP32, FP32), tensors, (3, 4), (3, 4), sums=PLANES)[1]
    assert grad_value[1, :, 1].isnan().all()
    assert grad_value.isnan().sum() == 12 * 6


@pytest.mark.parametrize("points", [4, 3])
@pytest.mark.parametrize("dim", [1, 6, 12, 14, 32])
@pytest.mark.parametrize("types", [(FP32, FP32), (BF16, BF16), (FP16, FP32)])
def test_planes_of_every_width_are_the_reference(on_host, types, dim, points):
    tensors = inputs(dim, points, (3, 4), (5, 8), *types)
    actual = run(on_host(*types), tensors, (3, 4), (5, 8), sums=PLANES)
    assert_close(actual, exact(tensors, (3, 4), (5, 8)))


@pytest.mark.parametrize("many", [False, True])
def test_planes_are_as_exact_as_they_say(on_host, many):
    """n * 2^-29 of the largest gradient times the largest sum of weights, with n terms a pixel: all queries look at one, or none do."""
    value_hw, query_hw = (4, 5), (30, 40)
    tensors = inputs(6, 4, value_hw, query_hw, heads=1, batch=1, scatter=2.0)
    if many:
        tensors[1].copy_(torch.rand_like(tensors[1]) * 0.1)
        tensors[3].abs_()
    _, grad_value, *_ = run(on_host(FP32, FP32), tensors, value_hw, query_hw, sums=PLANES)
    _, expected, *_ = exact(tensors, value_hw, query_hw)
    ones = [torch.ones_like(t) if i in (0, 3) else t for i, t in enumerate(tensors)]
    weights = exact(ones, value_hw, query_hw)[1].max().item()
    bound = 4 * 1200 * 2**-29 * tensors[3].abs().max().item() * weights
    rounding = 2**-22 * expected.abs().max()  # of the terms themselves, and of the result
    assert (grad_value.double() - expected).abs().max() <= bound + rounding


def test_planes_that_do_not_fit_are_not_taken(on_host):
    def fits(channels, height, width, queries=100):
        call = Call(1, 2, channels, 4, height, width, 1, queries, 16, 8, 1)
        return on_host(FP32, FP32).planes_fit(ctypes.byref(call))

    assert fits(12, 98, 70)
    assert fits(7, 240, 240)  # 230 KB for one channel; a block of an H100 has 232 KB
    assert not fits(7, 242, 242)
    assert not fits(12, 98, 70, queries=1 << 23)


def test_units_of_tsb_and_sbl_are_one_launch_and_large_or_other_ones_two(on_host):
    def paired(one, other, *, heads=16, points=4, other_batch=2, queries=(6860, 3500)):
        calls = [
            Call(batch, heads, dim, points, 5, 7, 1, of_one, 3 * heads * points, 3 * heads * points, 1)
            for batch, dim, of_one in zip((2, other_batch), (one, other), queries, strict=True)
        ]
        return on_host(FP32, FP32).paired(*map(ctypes.byref, calls))

    assert paired(6, 12)
    assert paired(12, 24)
    assert paired(24, 32)
    assert paired(6, 12, queries=(8192, 8192))  # 2 * 16 * 16384 is 2^19
    assert not paired(6, 12, queries=(8193, 8192))
    assert not paired(12, 6)
    assert not paired(6, 24)
    assert not paired(12, 24, points=3)
    assert not paired(12, 24, other_batch=1)


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
