"""What holds for both ops of csrc/sampling*.cpp, msda and dcnv3; their own numbers are in test_msda and test_dcnv3."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from piip.ops.dcnv3 import dcnv3, output_hw
from piip.ops.msda import msda


@dataclass
class Call:
    """An op with all its arguments but three: `run(value, coordinates, weights, kernel=...)`; three tensors that fit.

    `raw(value, coordinates, weights)` is the registered forward and its arguments.
    """

    run: Callable
    tensors: list[torch.Tensor]
    raw: Callable

    def cast(self, dtype):
        return [t.detach().to(dtype).requires_grad_() for t in self.tensors]


def random_tensors(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def msda_call(dim=6, heads=3, batch=2, queries=11, points=3, shapes=((5, 7), (3, 2), (1, 1)), scatter=1.0):
    pixels, levels = sum(h * w for h, w in shapes), len(shapes)
    value, locations, weights = random_tensors(
        [
            (batch, pixels, heads, dim),
            (batch, queries, heads, levels, points, 2),
            (batch, queries, heads, levels, points),
        ]
    )
    tensors = [t.float().requires_grad_() for t in (value, 0.5 + 0.3 * scatter * locations, weights)]
    hw = [size for shape in shapes for size in shape]
    forward = torch.ops.piip.msda_forward.default
    return Call(
        lambda v, c, w, kernel: msda(v, shapes, c, w, kernel=kernel),
        tensors,
        lambda value, coordinates, weights: (forward, (value, coordinates, weights, hw)),
    )


def dcnv3_call(dim=6, heads=3, batch=2, hw=(5, 7), scatter=1.0, **geometry):
    geometry = {
        "kernel_size": 3,
        "stride": 1,
        "pad": 1,
        "dilation": 1,
        "offset_scale": 1.0,
        "remove_center": False,
    } | geometry
    rows, columns = output_hw(hw, *(geometry[k] for k in ("kernel_size", "stride", "pad", "dilation")))
    taps = heads * (geometry["kernel_size"] ** 2 - geometry["remove_center"])
    value, offsets, mask = random_tensors(
        [(batch, *hw, heads * dim), (batch, rows, columns, 2 * taps), (batch, rows, columns, taps)]
    )
    tensors = [t.float().requires_grad_() for t in (value, scatter * offsets, mask)]
    order = ("kernel_size", "stride", "pad", "dilation")
    arguments = (*(geometry[k] for k in order), heads, geometry["offset_scale"], geometry["remove_center"])
    forward = torch.ops.piip.dcnv3_forward.default
    return Call(
        lambda v, c, w, kernel: dcnv3(v, c, w, groups=heads, kernel=kernel, **geometry),
        tensors,
        lambda value, coordinates, weights: (forward, (value, coordinates, weights, *arguments)),
    )


CALLS = {"msda": msda_call, "dcnv3": dcnv3_call}
each_op = pytest.mark.parametrize("op", CALLS)


def output_and_gradients(call, tensors, kernel):
    out = call.run(*tensors, kernel=kernel)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out.dtype)
    return [out, *torch.autograd.grad((out * weight).sum(), tensors)]


def assert_cpp_is_reference(call):
    exact = output_and_gradients(call, call.cast(torch.float64), "reference")
    for actual, e in zip(output_and_gradients(call, call.tensors, "cpp"), exact, strict=True):
        scale = max(1.0, e.abs().max().item()) if e.numel() else 1.0
        torch.testing.assert_close(actual.double(), e, rtol=1e-4, atol=2e-5 * scale)


@pytest.mark.usefixtures("compiled")
@each_op
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
@pytest.mark.parametrize("dim", [1, 3, 4, 6, 8, 12, 16, 24, 32, 40, 48])
def test_every_instruction_set_is_reference(monkeypatch, op, capability, dim):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
    assert_cpp_is_reference(CALLS[op](dim=dim, heads=5))


@pytest.mark.usefixtures("compiled")
@hypothesis.settings(deadline=None, max_examples=40, derandomize=True)
@hypothesis.given(
    dim=st.integers(1, 40),
    points=st.integers(1, 6),
    shapes=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=6),
    queries=st.integers(0, 20),
    heads=st.integers(1, 9),
    batch=st.integers(0, 3),
    scatter=st.sampled_from([0.5, 3.0, 30.0]),
)
def test_msda_is_reference_for_any_shape(dim, points, shapes, queries, heads, batch, scatter):
    assert_cpp_is_reference(msda_call(dim, heads, batch, queries, points, shapes, scatter))


@pytest.mark.usefixtures("compiled")
@hypothesis.settings(deadline=None, max_examples=40, derandomize=True)
@hypothesis.given(
    dim=st.integers(1, 40),
    heads=st.integers(1, 9),
    batch=st.integers(0, 3),
    hw=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    scatter=st.sampled_from([0.5, 3.0, 30.0]),
    kernel_size=st.sampled_from([2, 3]),
    stride=st.integers(1, 3),
    pad=st.integers(0, 3),
    dilation=st.integers(1, 2),
    offset_scale=st.sampled_from([0.5, 1.0, 2.0]),
    remove_center=st.booleans(),
)
def test_dcnv3_is_reference_for_any_geometry(dim, heads, batch, hw, scatter, **geometry):
    assert_cpp_is_reference(dcnv3_call(dim, heads, batch, hw, scatter, **geometry))


@pytest.mark.usefixtures("compiled")
@each_op
@pytest.mark.parametrize("scatter", [1.0, 10.0])
@pytest.mark.parametrize("dim", [6, 12, 16, 32])
def test_error_is_at_most_twice_that_of_plain_fp32(op, dim, scatter):
    larger = {"hw": (20, 28)} if op == "dcnv3" else {"shapes": ((20, 28), (10, 14)), "queries": 280}
    call = CALLS[op](dim=dim, scatter=scatter, **larger)
    exact = output_and_gradients(call, call.cast(torch.float64), "reference")
    plain, compiled = (output_and_gradients(call, call.tensors, kernel) for kernel in ("reference", "cpp"))
    for c, p, e in zip(compiled, plain, exact, strict=True):
        assert (c - e).norm() <= 2 * (p - e).norm()
        assert (c - e).abs().max() <= 2 * (p - e).abs().max()


@each_op
@pytest.mark.parametrize("dim", [3, 8])
def test_gradients_are_those_of_finite_differences(kernel, op, dim):
    smaller = {"hw": (3, 4), "stride": 2} if op == "dcnv3" else {"queries": 5, "points": 2}
    call = CALLS[op](dim=dim, heads=2, batch=1, scatter=0.77, **smaller)
    torch.autograd.gradcheck(partial(call.run, kernel=kernel), call.cast(torch.float64))


@each_op
def test_nan_and_inf_do_not_leak_to_points_outside_the_map(kernel, op):
    call = CALLS[op]()
    value, coordinates, _ = call.tensors
    value.data.fill_(float("inf")).flatten()[::7] = float("nan")
    coordinates.data.copy_((coordinates.sign() * 1e3).unflatten(-1, (-1, 2)).mul(torch.tensor([1.0, 1e27])).flatten(-2))
    out, *gradients = output_and_gradients(call, call.tensors, kernel)
    assert (out == 0).all()
    assert all((g == 0).all() for g in gradients)


@pytest.mark.usefixtures("compiled")
@each_op
def test_nan_beside_the_points_does_not_leak(op):
    """A bad pixel shows in the outputs and gradients of the points that touch it with a weight, and in no other."""
    call = CALLS[op](dim=6)
    clean = output_and_gradients(call, call.tensors, "cpp")
    call.tensors[0].data.flatten()[:6] = float("nan")  # the first head's channels of the first pixel
    bad = output_and_gradients(call, call.tensors, "cpp")
    reference = output_and_gradients(call, call.tensors, "reference")
    for b, c, r in zip(bad, clean, reference, strict=True):
        assert torch.equal(b.isnan(), r.isnan())
        assert torch.equal(b[~b.isnan()], c[~b.isnan()])


@each_op
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_coordinate_that_is_no_number_shows_in_its_own_head_only(kernel, op, bad):
    call = CALLS[op]()
    expected = call.run(*call.tensors, kernel=kernel)
    call.tensors[1].data.flatten()[0] = bad
    out = call.run(*call.tensors, kernel=kernel)
    head = out.flatten()[:6]
    assert head.isnan().all()
    head.data.copy_(expected.flatten()[:6])
    assert torch.equal(out, expected)


@pytest.mark.usefixtures("compiled")
@each_op
@pytest.mark.parametrize("dim", [3, 6, 12, 16, 24, 32])
def test_bf16_is_fp32_with_rounded_inputs_and_outputs(op, dim):
    call = CALLS[op](dim=dim)
    small = call.cast(torch.bfloat16)
    large = [t.detach().float().requires_grad_() for t in small]
    out_bf16, out_fp32 = (call.run(*tensors, kernel="cpp") for tensors in (small, large))
    grad_out = torch.randn(out_bf16.shape).bfloat16()

    assert torch.equal(out_bf16, out_fp32.bfloat16())
    of_bf16, of_fp32 = (
        torch.autograd.grad(out_bf16, small, grad_out),
        torch.autograd.grad(out_fp32, large, grad_out.float()),
    )
    for rounded, full in zip(of_bf16, of_fp32, strict=True):
        assert torch.equal(rounded, full.bfloat16())


@each_op
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float32])
def test_result_has_the_dtype_of_the_value_and_gradients_their_inputs(kernel, op, dtype):
    call = CALLS[op]()
    value, coordinates, weights = call.tensors
    mixed = [value.detach().to(dtype).requires_grad_(), coordinates, weights.detach().bfloat16().requires_grad_()]
    with torch.autocast("cpu", torch.bfloat16):
        out, *gradients = output_and_gradients(call, mixed, kernel)
    assert out.dtype == dtype
    assert [g.dtype for g in gradients] == [t.dtype for t in mixed]
    exact = call.run(*(t.detach().double() for t in mixed), kernel="reference")
    torch.testing.assert_close(out, exact.to(dtype), rtol=1e-2, atol=2e-3)


@pytest.mark.usefixtures("compiled")
@each_op
@pytest.mark.parametrize("heads", [1, 4, 6])
def test_same_bits_for_any_number_of_threads(op, heads):
    # so large that every thread gets work
    larger = {"hw": (40, 56)} if op == "dcnv3" else {"shapes": ((40, 56), (20, 28)), "queries": 2240}
    call = CALLS[op](dim=16, heads=heads, **larger)
    torch.set_num_threads(1)
    once = output_and_gradients(call, call.tensors, "cpp")
    for threads in (2, 5):
        torch.set_num_threads(threads)
        for a, b in zip(once, output_and_gradients(call, call.tensors, "cpp"), strict=True):
            assert torch.equal(a, b)


@pytest.mark.usefixtures("compiled")
@each_op
def test_strided_inputs_and_an_expanded_gradient(op):
    call = CALLS[op](batch=4)
    results = []
    for kernel in ("cpp", "reference"):
        strided = [t[::2] for t in call.tensors]
        out = call.run(strided[0].transpose(0, 1).contiguous().transpose(0, 1), *strided[1:], kernel=kernel)
        results.append([out, *torch.autograd.grad(out.sum(), call.tensors)])
    for actual, wanted in zip(*results, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("compiled")
@each_op
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(op, dtype):
    call = CALLS[op]()
    tensors = call.cast(dtype)
    forward, arguments = call.raw(*tensors)
    torch.library.opcheck(forward, arguments)
    grad_out = torch.ones_like(forward(*arguments)).detach()
    backward = getattr(torch.ops.piip, f"{op}_backward").default
    _, plain = call.raw(*(t.detach() for t in tensors))
    torch.library.opcheck(backward, (grad_out, *plain))


@each_op
def test_compiles_into_one_graph(kernel, op):
    call = CALLS[op]()
    compiled = torch.compile(partial(call.run, kernel=kernel), backend="aot_eager", fullgraph=True)
    out, expected = compiled(*call.tensors), call.run(*call.tensors, kernel=kernel)
    torch.testing.assert_close(out, expected)
    gradients = (torch.autograd.grad(o.square().sum(), call.tensors) for o in (out, expected))
    for actual, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.usefixtures("compiled")
@each_op
def test_the_short_way_to_gradients_is_the_registered_one(op):
    """What tracers see is the op with its registered gradient; eager calls go round it. A graph may be walked twice."""
    call = CALLS[op]()
    short = call.run(*call.tensors, kernel="cpp").square().sum()
    forward, arguments = call.raw(*call.tensors)
    registered = torch.autograd.grad(forward(*arguments).square().sum(), call.tensors)
    for gradients in (
        torch.autograd.grad(short, call.tensors, retain_graph=True),
        torch.autograd.grad(short, call.tensors),
    ):
        assert all(torch.equal(a, b) for a, b in zip(gradients, registered, strict=True))


@each_op
@pytest.mark.parametrize("kernel", ["auto", "reference", "cpp"])
def test_flops_on_meta_do_not_depend_on_the_kernel(op, kernel):
    call = CALLS[op]()
    with FlopCounterMode(display=False) as counter:
        out = call.run(*(t.to("meta") for t in call.tensors), kernel=kernel)
    assert out.shape == ((2, 11, 18) if op == "msda" else (2, 5, 7, 18))
    # 2 * 5 MACs (4 corners, 1 weighting) * batch 2 * queries * 3 heads * points * 6 channels
    assert counter.get_total_flops() == 2 * 5 * 2 * 3 * 6 * (11 * 9 if op == "msda" else 35 * 9)


@pytest.mark.usefixtures("compiled")
@each_op
def test_second_derivative_says_what_to_do(op):
    call = CALLS[op]()
    out = call.run(*call.tensors, kernel="cpp")
    (grad_value,) = torch.autograd.grad(out.square().sum(), call.tensors[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match="kernel='reference'"):
        grad_value.sum().backward()


@each_op
def test_a_kernel_that_cannot_run_is_refused(op, monkeypatch):
    call = CALLS[op]()
    with pytest.raises(ValueError, match="'fast': no such kernel"):
        call.run(*call.tensors, kernel="fast")
    with pytest.raises(RuntimeError, match="'cuda' runs on a CUDA GPU, the tensors are on cpu"):
        call.run(*call.tensors, kernel="cuda")
    monkeypatch.setattr("piip.ops.compiled.cpu.problem", lambda: "no compiler.")
    with pytest.raises(RuntimeError, match="'cpp' cannot run"):
        call.run(*call.tensors, kernel="cpp")
