from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from piip.ops.deform_attn import active_kernel, deform_attn

GOLDEN = Path(__file__).parents[1] / "golden" / "ops_deform_attn.npz"


def inputs(dim, num_points, value_hw, query_hw, *, heads=3, batch=2, scatter=3.0, dtype=torch.float32, seed=0):
    """Value, offsets (`scatter` pixels wide) and logits, in that order."""
    generator = torch.Generator().manual_seed(seed)
    num_queries = query_hw[0] * query_hw[1]
    shapes = (
        (batch, value_hw[0] * value_hw[1], heads, dim),
        (batch, num_queries, heads, num_points, 2),
        (batch, num_queries, heads, num_points),
    )
    value, offsets, logits = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [t.to(dtype).requires_grad_() for t in (value, offsets * scatter, logits)]


def output_and_gradients(tensors, value_hw, query_hw, kernel):
    out = deform_attn(*tensors, value_hw, query_hw, kernel=kernel)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out.dtype)
    return [out, *torch.autograd.grad((out * weight).sum(), tensors)]


def assert_cpp_is_reference(tensors, value_hw, query_hw):
    expected = output_and_gradients(tensors, value_hw, query_hw, "reference")
    actual = output_and_gradients(tensors, value_hw, query_hw, "cpp")
    for a, e in zip(actual, expected, strict=True):
        scale = max(1.0, e.abs().max().item()) if e.numel() else 1.0
        torch.testing.assert_close(a, e, rtol=1e-4, atol=2e-5 * scale)


def test_official_numbers(kernel):
    """Outputs and gradients of the official sampling function, which takes locations in [0, 1] and weights after the softmax."""
    golden = {name: torch.from_numpy(array) for name, array in np.load(GOLDEN).items()}
    value_hw, query_hw, size = (5, 7), (4, 3), torch.tensor([7.0, 5.0])
    rows, columns = torch.meshgrid(torch.arange(4) + 0.5, torch.arange(3) + 0.5, indexing="ij")
    centres = torch.stack([columns / 3, rows / 4], -1).view(1, 12, 1, 1, 2)
    value, logits = golden["value"].requires_grad_(), golden["logits"].requires_grad_()
    offsets = ((golden["locations"] - centres) * size).requires_grad_()

    out = deform_attn(value, offsets, logits, value_hw, query_hw, kernel=kernel)
    grad_value, grad_offsets, grad_logits = torch.autograd.grad(out.square().sum(), (value, offsets, logits))

    weights, grad_weights = logits.softmax(-1), golden["grad_weights"]
    through_softmax = weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
    torch.testing.assert_close(out, golden["out"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad_value, golden["grad_value"], rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(grad_offsets, golden["grad_locations"] / size, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(grad_logits, through_softmax, rtol=1e-4, atol=2e-5)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("num_points", [1, 4, 9, 16, 33])
@pytest.mark.parametrize("dim", [1, 2, 4, 6, 8, 12, 16, 24, 32, 40, 100])
def test_cpp_is_reference(dim, num_points):
    assert_cpp_is_reference(inputs(dim, num_points, (5, 7), (4, 3)), (5, 7), (4, 3))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
@pytest.mark.parametrize("num_points", [3, 4])
@pytest.mark.parametrize("dim", [3, 6, 12, 24, 32, 48])
def test_every_instruction_set_is_reference(monkeypatch, capability, dim, num_points):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
    assert_cpp_is_reference(inputs(dim, num_points, (6, 5), (7, 4), heads=5), (6, 5), (7, 4))


@pytest.mark.usefixtures("compiled")
@hypothesis.settings(deadline=None, max_examples=40, derandomize=True)
@hypothesis.given(
    dim=st.integers(1, 40),
    num_points=st.integers(1, 9),
    value_hw=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    query_hw=st.tuples(st.integers(0, 9), st.integers(1, 9)),
    heads=st.integers(1, 9),
    batch=st.integers(0, 3),
    scatter=st.sampled_from([0.5, 3.0, 30.0]),
)
def test_cpp_is_reference_for_any_shape(dim, num_points, value_hw, query_hw, heads, batch, scatter):
    tensors = inputs(dim, num_points, value_hw, query_hw, heads=heads, batch=batch, scatter=scatter)
    assert_cpp_is_reference(tensors, value_hw, query_hw)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("scatter", [1.0, 30.0])
@pytest.mark.parametrize("dim", [4, 6, 12, 32])
def test_error_is_at_most_twice_that_of_plain_fp32(dim, scatter):
    tensors = inputs(dim, 4, (20, 28), (14, 20), scatter=scatter)
    exact = output_and_gradients(
        [t.detach().double().requires_grad_() for t in tensors], (20, 28), (14, 20), "reference"
    )
    plain = output_and_gradients(tensors, (20, 28), (14, 20), "reference")
    compiled = output_and_gradients(tensors, (20, 28), (14, 20), "cpp")
    for c, p, e in zip(compiled, plain, exact, strict=True):
        assert (c - e).norm() <= 2 * (p - e).norm()


@pytest.mark.parametrize("dim", [3, 8])
def test_gradients_are_those_of_finite_differences(kernel, dim):
    tensors = inputs(dim, 3, (4, 5), (3, 2), heads=2, scatter=1.3, dtype=torch.float64)
    torch.autograd.gradcheck(lambda *t: deform_attn(*t, (4, 5), (3, 2), kernel=kernel), tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_and_inf_do_not_leak_to_points_outside_the_map(kernel, dtype):
    value, offsets, logits = inputs(6, 4, (3, 3), (3, 3), batch=1, dtype=dtype)
    value = value.detach().fill_(float("inf")).requires_grad_()
    value.data[:, 4] = float("nan")
    offsets = (
        offsets.detach().sign() * torch.tensor([4.0, 1e30], dtype=dtype)
    ).requires_grad_()  # all of them beside the map

    out, *gradients = output_and_gradients([value, offsets, logits], (3, 3), (3, 3), kernel)

    assert (out == 0).all()
    assert all((g == 0).all() for g in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_location_that_is_no_number_shows_in_its_own_head_only(kernel, bad, dtype):
    value, offsets, logits = inputs(6, 4, (5, 7), (4, 3), dtype=dtype)
    expected = deform_attn(value, offsets, logits, (5, 7), (4, 3), kernel=kernel).view(2, 12, 3, 6)
    offsets.data[1, 5, 2, 3, 0] = bad

    out = deform_attn(value, offsets, logits, (5, 7), (4, 3), kernel=kernel).view(2, 12, 3, 6)

    assert out[1, 5, 2].isnan().all()
    out.data[1, 5, 2] = expected[1, 5, 2]
    assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_in_one_head_stays_there(kernel, bad, dtype):
    """Widths 6 and 12 are padded: the kernel's vectors reach into the next head."""
    for dim in (6, 12):
        tensors = inputs(dim, 4, (5, 7), (4, 3), dtype=dtype)
        grad_out = torch.ones(2, 12, 3, dim, dtype=dtype)
        clean_out = deform_attn(*tensors, (5, 7), (4, 3), kernel=kernel)
        clean = torch.autograd.grad(clean_out, tensors, grad_out.view(2, 12, -1))
        tensors[0].data[:, :, 1] = bad
        grad_out[:, :, 1] = bad

        out = deform_attn(*tensors, (5, 7), (4, 3), kernel=kernel)
        gradients = torch.autograd.grad(out, tensors, grad_out.view(2, 12, -1))

        assert out.view(2, 12, 3, dim)[:, :, [0, 2]].isfinite().all()
        for actual, wanted in zip(gradients, clean, strict=True):
            torch.testing.assert_close(actual[:, :, [0, 2]], wanted[:, :, [0, 2]])


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_that_a_thread_keeps_carries_nothing_over(dtype):
    tensors = inputs(6, 4, (5, 7), (4, 3), dtype=dtype)
    expected = output_and_gradients(tensors, (5, 7), (4, 3), "cpp")
    large = inputs(16, 4, (12, 12), (4, 3), dtype=dtype)
    large[0].data.fill_(float("nan"))
    output_and_gradients(large, (12, 12), (4, 3), "cpp")
    for after, before in zip(output_and_gradients(tensors, (5, 7), (4, 3), "cpp"), expected, strict=True):
        assert torch.equal(after, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_logits_show(kernel, dtype):
    value, offsets, logits = inputs(6, 4, (5, 7), (4, 3), dtype=dtype)
    logits.data[0, 0, 0, 1] = float("nan")
    out = deform_attn(value, offsets, logits, (5, 7), (4, 3), kernel=kernel)
    assert out[0, 0, :6].isnan().all()
    assert out.isnan().sum() == 6


@pytest.mark.parametrize("value_dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float32])
def test_result_has_the_dtype_of_the_value_and_gradients_their_inputs(kernel, value_dtype):
    value, offsets, logits = inputs(6, 4, (5, 7), (4, 3))
    mixed = [value.detach().to(value_dtype).requires_grad_(), offsets, logits.detach().bfloat16().requires_grad_()]
    with torch.autocast("cpu", torch.bfloat16):
        out, *gradients = output_and_gradients(mixed, (5, 7), (4, 3), kernel)
    assert out.dtype == value_dtype
    assert [g.dtype for g in gradients] == [t.dtype for t in mixed]
    exact = deform_attn(*(t.detach().double() for t in mixed), (5, 7), (4, 3), kernel="reference")
    torch.testing.assert_close(out, exact.to(value_dtype), rtol=1e-2, atol=1e-4)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [1, 4, 6])
def test_same_bits_for_any_number_of_threads(heads, dtype):
    tensors = inputs(6, 4, (15, 24), (20, 32), heads=heads, dtype=dtype)
    torch.set_num_threads(1)
    once = output_and_gradients(tensors, (15, 24), (20, 32), "cpp")
    for threads in (2, 5):
        torch.set_num_threads(threads)
        for a, b in zip(once, output_and_gradients(tensors, (15, 24), (20, 32), "cpp"), strict=True):
            assert torch.equal(a, b)


@pytest.mark.usefixtures("compiled")
def test_strided_inputs_and_an_expanded_gradient():
    value, offsets, logits = inputs(6, 4, (5, 7), (4, 3), batch=4)
    expected = deform_attn(value[::2], offsets[::2], logits[::2], (5, 7), (4, 3), kernel="reference")
    out = deform_attn(value[::2], offsets[::2], logits[::2], (5, 7), (4, 3), kernel="cpp")
    torch.testing.assert_close(out, expected)
    for actual, wanted in zip(
        torch.autograd.grad(out.sum(), (value, offsets, logits)),
        torch.autograd.grad(expected.sum(), (value, offsets, logits)),
        strict=True,
    ):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    value, offsets, logits = inputs(6, 4, (5, 7), (4, 3), dtype=dtype)
    torch.library.opcheck(torch.ops.piip.deform_attn_forward.default, (value, offsets, logits, 5, 7, 4, 3))
    plain = [t.detach() for t in (torch.ones(2, 12, 18, dtype=dtype), value, offsets, logits)]
    torch.library.opcheck(torch.ops.piip.deform_attn_backward.default, (*plain, 5, 7, 4, 3))


def test_compiles_into_one_graph(kernel):
    tensors = inputs(6, 4, (5, 7), (4, 3))
    compiled = torch.compile(
        lambda *t: deform_attn(*t, (5, 7), (4, 3), kernel=kernel), backend="aot_eager", fullgraph=True
    )
    out = compiled(*tensors)
    torch.testing.assert_close(out, deform_attn(*tensors, (5, 7), (4, 3), kernel=kernel))
    torch.autograd.grad(out.sum(), tensors)


@pytest.mark.parametrize("kernel", ["auto", "reference", "cpp"])
def test_flops_on_meta_do_not_depend_on_the_kernel(kernel):
    tensors = [t.to("meta") for t in inputs(6, 4, (5, 7), (4, 3))]
    with FlopCounterMode(display=False) as counter:
        out = deform_attn(*tensors, (5, 7), (4, 3), kernel=kernel)
    assert out.shape == (2, 12, 18)
    # 2 * 5 MACs (4 corners, 1 weighting) * batch 2 * 12 queries * 3 heads * 4 points * 6 channels
    assert counter.get_total_flops() == 2 * 5 * 2 * 12 * 3 * 4 * 6


@pytest.mark.usefixtures("compiled")
def test_second_derivative_says_what_to_do():
    tensors = inputs(6, 4, (5, 7), (4, 3))
    out = deform_attn(*tensors, (5, 7), (4, 3), kernel="cpp")
    (grad_value,) = torch.autograd.grad(out.square().sum(), tensors[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match="kernel='reference'"):
        grad_value.sum().backward()


def test_wrong_shapes_and_names_are_refused_in_words():
    value, offsets, logits = inputs(6, 4, (5, 7), (4, 3))
    with pytest.raises(ValueError, match="value has 35 pixels, value_hw \\(5, 8\\) asks for 40"):
        deform_attn(value, offsets, logits, (5, 8), (4, 3))
    with pytest.raises(ValueError, match="offsets must be \\(2, 15, 3, 4, 2\\)"):
        deform_attn(value, offsets, logits, (5, 7), (5, 3))
    with pytest.raises(ValueError, match="'fast': no such kernel"):
        deform_attn(value, offsets, logits, (5, 7), (4, 3), kernel="fast")
    with pytest.raises(RuntimeError, match="the tensors are on cuda"):
        active_kernel("cpp", "cuda")


def test_environment_replaces_auto_only(monkeypatch):
    monkeypatch.setenv("PIIP_KERNEL", "reference")
    assert active_kernel("auto") == "reference"
    monkeypatch.setenv("PIIP_KERNEL", "quick")
    assert active_kernel("reference") == "reference"
    with pytest.raises(ValueError, match="PIIP_KERNEL='quick'"):
        active_kernel("auto")
