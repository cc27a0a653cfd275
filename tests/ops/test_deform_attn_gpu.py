"""The GPU kernels on a GPU: `pytest -m gpu tests/ops`. Without one, test_deform_attn_cuda_on_host.py and _triton.py say most of it."""

import pytest
import torch

from piip.ops.compiled import cuda
from piip.ops.deform_attn import active_kernel, deform_attn
from piip.ops.deform_attn_packed import deform_attn_packed
from piip.ops.deform_attn_pair import Direction, deform_attn_pair

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
WIDTHS = [1, 6, 7, 12, 16, 24, 32, 40, 64, 100]
TOLERANCE = {FP32: 3e-6, FP16: 2e-3, BF16: 1.6e-2}


@pytest.fixture(params=["cuda", "triton"])
def kernel(request):
    """Both GPU kernels; a build that fails is a failure."""
    if request.param == "cuda":
        assert cuda.load(), cuda.problem()
    return request.param


def inputs(dim, points, value_hw, query_hw, dtype=FP32, location=None, *, heads=3, batch=2, scatter=3.0):
    """Value, offsets and logits on the GPU, and a gradient of the output. No location is that of a pixel: gradients jump there."""
    generator = torch.Generator().manual_seed(dim * 10 + points)
    queries = query_hw[0] * query_hw[1]
    shapes = (
        (batch, value_hw[0] * value_hw[1], heads, dim),
        (batch, queries, heads, points, 2),
        (batch, queries, heads, points),
        (batch, queries, heads * dim),
    )
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    tensors[1] *= scatter
    dtypes = (dtype, location or dtype, location or dtype, dtype)
    tensors = [t.to(wanted) for t, wanted in zip(tensors, dtypes, strict=True)]
    rows, columns = torch.meshgrid(*(torch.arange(n).double() + 0.5 for n in query_hw), indexing="ij")
    centres = torch.stack([columns / query_hw[1] * value_hw[1], rows / query_hw[0] * value_hw[0]], -1) - 0.5
    places = centres.view(queries, 1, 1, 2) + tensors[1].double()
    tensors[1] += 0.25 * ((places - places.round()).abs() < 1e-3)
    *given, grad_out = (t.cuda() for t in tensors)
    return [t.requires_grad_() for t in given], grad_out


def outcome(given, grad_out, value_hw, query_hw, kernel):
    out = deform_attn(*given, value_hw, query_hw, kernel=kernel)
    return [out.detach(), *torch.autograd.grad(out, given, grad_out.to(out.dtype))]


def assert_is_reference(given, grad_out, value_hw, query_hw, kernel):
    exact = [t.detach().double().requires_grad_() for t in given]
    expected = outcome(exact, grad_out.double(), value_hw, query_hw, "reference")
    for a, e in zip(outcome(given, grad_out, value_hw, query_hw, kernel), expected, strict=True):
        if e.numel():
            assert (a.double() - e).abs().max() <= TOLERANCE[a.dtype] * max(1.0, e.abs().max().item())


def test_cuda_is_chosen_unasked(monkeypatch):
    monkeypatch.delenv("PIIP_KERNEL", raising=False)
    assert active_kernel("auto", "cuda") == "cuda", cuda.problem()


@pytest.mark.parametrize("points", [4, 3])
@pytest.mark.parametrize("dim", WIDTHS)
@pytest.mark.parametrize(("dtype", "location"), [(FP32, FP32), (FP16, FP16), (FP16, FP32), (BF16, BF16), (BF16, FP32)])
def test_is_the_reference(kernel, dtype, location, dim, points):
    given, grad_out = inputs(dim, points, (5, 7), (4, 3), dtype, location)
    assert_is_reference(given, grad_out, (5, 7), (4, 3), kernel)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dim", [6, 24, 32])
def test_is_the_reference_where_many_add_to_a_pixel(kernel, dim, deterministic):
    given, grad_out = inputs(dim, 4, (11, 13), (50, 70), heads=16, scatter=10.0)
    torch.use_deterministic_algorithms(deterministic)
    try:
        assert_is_reference(given, grad_out, (11, 13), (50, 70), kernel)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("dim", [6, 12, 24, 32, 40, 100, 7])
def test_deterministic_gradients_have_the_same_bits(kernel, dim, dtype):
    given, grad_out = inputs(dim, 4, (11, 13), (50, 70), dtype, heads=16)
    torch.use_deterministic_algorithms(True)
    try:
        first = outcome(given, grad_out, (11, 13), (50, 70), kernel)
        for _ in range(5):
            for a, b in zip(first, outcome(given, grad_out, (11, 13), (50, 70), kernel), strict=True):
                assert torch.equal(a, b)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("dtype", "location"), [(FP32, FP32), (FP16, FP32), (BF16, BF16)])
@pytest.mark.parametrize("heads", [16, 3])  # rows of three heads in bf16 are no multiple of 16 bytes
@pytest.mark.parametrize(("dim", "points"), [(6, 4), (32, 4), (12, 3), (7, 4)])
def test_packed_is_apart(dtype, location, heads, dim, points):
    (value, offsets, logits), grad_out = inputs(dim, points, (5, 7), (4, 3), dtype, location, heads=heads)
    packed = torch.cat([offsets.detach().flatten(2), logits.detach().flatten(2)], -1).requires_grad_()
    out = deform_attn_packed(value, packed, (5, 7), (4, 3), kernel="cuda")
    expected, *gradients = outcome([value, offsets, logits], grad_out, (5, 7), (4, 3), "cuda")
    grad_value, grad_packed = torch.autograd.grad(out, (value, packed), grad_out)
    apart = torch.cat([g.flatten(2) for g in gradients[1:]], -1)
    for a, e in ((out, expected), (grad_value, gradients[0]), (grad_packed, apart)):
        assert (a.double() - e.double()).abs().max() <= TOLERANCE[a.dtype] * max(1.0, e.abs().max().item())


@pytest.mark.parametrize(("dtype", "location"), [(FP32, FP32), (FP16, FP32), (BF16, BF16)])
@pytest.mark.parametrize("dims", [(6, 12), (12, 24), (24, 32), (6, 24)])  # all but the last in one launch
@pytest.mark.parametrize("heads", [16, 3])
def test_both_directions_of_a_unit_are_two_calls(dtype, location, dims, heads):
    assert cuda.load(), cuda.problem()
    shapes = ((11, 13), (7, 5)), ((7, 5), (11, 13))
    both, leaves, grads_out, expected = [], [], [], []
    for dim, (value_hw, query_hw) in zip(dims, shapes, strict=True):
        (value, offsets, logits), grad_out = inputs(dim, 4, value_hw, query_hw, dtype, location, heads=heads)
        packed = torch.cat([offsets.detach().flatten(2), logits.detach().flatten(2)], -1).requires_grad_()
        alone = deform_attn_packed(value, packed, value_hw, query_hw, kernel="cuda")
        expected.append((alone, *torch.autograd.grad(alone, (value, packed), grad_out)))
        both.append(Direction(value, packed, value_hw, query_hw))
        leaves += [value, packed]
        grads_out.append(grad_out)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        outs = deform_attn_pair(*both, kernel="cuda")
        gradients = torch.autograd.grad(outs, leaves, grads_out)
    pairs = {event.key.split("_kernel")[0].split("::")[-1]: event.count for event in profile.key_averages()}
    assert ("backward_pair" in pairs) == (dims != (6, 24) and (heads == 16 or dtype != BF16)), pairs
    for i, (alone, *wanted) in enumerate(expected):
        assert torch.equal(outs[i], alone)
        for a, e in zip(gradients[2 * i : 2 * i + 2], wanted, strict=True):
            assert (a.double() - e.double()).abs().max() <= TOLERANCE[a.dtype] * max(1.0, e.abs().max().item())


def test_packed_is_read_and_written_without_a_copy():
    value = torch.randn(2, 35, 16, 6, device="cuda", dtype=BF16, requires_grad=True)
    packed = torch.randn(2, 12, 192, device="cuda", dtype=BF16, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        out = deform_attn_packed(value, packed, (5, 7), (4, 3), kernel="cuda")
        torch.autograd.grad(out, (value, packed), torch.ones_like(out))
    names = [event.key.lower() for event in profile.key_averages()]
    assert any("backward_kernel" in name for name in names)
    assert not [name for name in names if "copy" in name or "cat" in name]


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("dim", [6, 12, 7, 32])
def test_every_way_to_add_up_the_gradient_is_the_same(dim, dtype):
    assert cuda.load(), cuda.problem()
    given, grad_out = inputs(dim, 4, (50, 70), (98, 70), dtype, heads=16)
    tensors = [t.detach() for t in given]
    backward = torch.ops.piip.deform_attn_sums_backward
    floats, *others = (backward(grad_out, *tensors, 50, 70, 98, 70, kind) for kind in (0, 1, 2))
    for other in others:
        for a, e in zip(other, floats, strict=True):
            assert (a.double() - e.double()).abs().max() <= TOLERANCE[a.dtype] * max(1.0, e.abs().max().item())


@pytest.mark.parametrize(("batch", "query_hw"), [(0, (4, 3)), (2, (0, 3)), (2, (4, 3))])
def test_nothing_to_do(kernel, batch, query_hw):
    given, grad_out = inputs(6, 4, (5, 7), query_hw, batch=batch)
    assert_is_reference(given, grad_out, (5, 7), query_hw, kernel)


def test_strided_and_misaligned_inputs(kernel):
    given, grad_out = inputs(6, 4, (5, 7), (4, 3), batch=4)
    every_other = [t[::2] for t in given]
    assert_is_reference([t.detach().requires_grad_() for t in every_other], grad_out[::2], (5, 7), (4, 3), kernel)
    storage = torch.cat([torch.zeros(1, device="cuda"), given[0].detach().flatten()])
    shifted = [storage[1:].view_as(given[0]).requires_grad_(), *given[1:]]
    assert shifted[0].data_ptr() % 16
    assert_is_reference(shifted, grad_out, (5, 7), (4, 3), kernel)
    expanded = grad_out[:, :1, :1].expand_as(grad_out)
    assert_is_reference(given, expanded, (5, 7), (4, 3), kernel)


def test_nan_and_inf_do_not_leak_to_points_outside_the_map(kernel):
    (value, offsets, logits), grad_out = inputs(6, 4, (3, 3), (3, 3))
    value = value.detach().fill_(float("inf"))
    value[:, 4] = float("nan")
    offsets = offsets.detach().sign() * torch.tensor([4.0, 1e30], device="cuda")
    given = [value.requires_grad_(), offsets.requires_grad_(), logits]
    assert all((t == 0).all() for t in outcome(given, grad_out, (3, 3), (3, 3), kernel))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_location_that_is_no_number_shows_in_its_own_head_only(kernel, bad):
    (value, offsets, logits), _ = inputs(6, 4, (5, 7), (4, 3))
    expected = deform_attn(value, offsets, logits, (5, 7), (4, 3), kernel=kernel).view(2, 12, 3, 6)
    offsets.data[1, 5, 2, 3, 0] = bad
    out = deform_attn(value, offsets, logits, (5, 7), (4, 3), kernel=kernel).view(2, 12, 3, 6)
    assert out[1, 5, 2].isnan().all()
    out.data[1, 5, 2] = expected[1, 5, 2]
    assert torch.equal(out, expected)


def test_float64_and_mixed_dtypes_are_taken(kernel):
    (value, offsets, logits), grad_out = inputs(6, 4, (5, 7), (4, 3))
    mixed = [value.detach().bfloat16().requires_grad_(), offsets, logits.detach().half().requires_grad_()]
    out, *gradients = outcome(mixed, grad_out, (5, 7), (4, 3), kernel)
    assert [out.dtype, *(g.dtype for g in gradients)] == [BF16, BF16, FP32, FP16]
    doubles = [t.detach().double().requires_grad_() for t in (value, offsets, logits)]
    assert outcome(doubles, grad_out, (5, 7), (4, 3), "auto")[0].dtype == torch.float64


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_opcheck(kernel, dtype):
    (value, offsets, logits), grad_out = inputs(6, 4, (5, 7), (4, 3), dtype)
    name = "deform_attn" if kernel == "cuda" else "deform_attn_triton"
    forward, backward = (getattr(torch.ops.piip, f"{name}_{way}").default for way in ("forward", "backward"))
    torch.library.opcheck(forward, (value, offsets, logits, 5, 7, 4, 3))
    plain = [t.detach() for t in (grad_out, value, offsets, logits)]
    torch.library.opcheck(backward, (*plain, 5, 7, 4, 3), {"deterministic": True})


def test_compiles_into_one_graph(kernel):
    given, grad_out = inputs(6, 4, (5, 7), (4, 3))
    compiled = torch.compile(lambda *t: deform_attn(*t, (5, 7), (4, 3), kernel=kernel) * 2, fullgraph=True)
    out = compiled(*given)
    torch.testing.assert_close(out, deform_attn(*given, (5, 7), (4, 3), kernel=kernel) * 2)
    torch.autograd.grad(out, given, grad_out)


@pytest.mark.parametrize("deterministic", [False, True])
def test_can_be_captured_in_a_graph(kernel, deterministic):
    given, grad_out = inputs(12, 4, (5, 7), (4, 3))
    torch.use_deterministic_algorithms(deterministic)
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            outcome(given, grad_out, (5, 7), (4, 3), kernel)  # compiles, and warms the allocator up
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = outcome(given, grad_out, (5, 7), (4, 3), kernel)
    finally:
        torch.use_deterministic_algorithms(False)
    with torch.no_grad():
        for tensor in given:
            tensor.mul_(0.5)
    graph.replay()
    for a, e in zip(captured, outcome(given, grad_out, (5, 7), (4, 3), kernel), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5)


def test_runs_on_the_current_stream_and_on_the_device_of_its_tensors(kernel):
    given, grad_out = inputs(12, 4, (5, 7), (4, 3))
    expected = outcome(given, grad_out, (5, 7), (4, 3), kernel)
    with torch.cuda.stream(torch.cuda.Stream()):
        actual = outcome(given, grad_out, (5, 7), (4, 3), kernel)
        torch.cuda.current_stream().synchronize()
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5)
    if torch.cuda.device_count() > 1:
        there = [t.detach().to("cuda:1").requires_grad_() for t in given]
        assert_is_reference(there, grad_out.to("cuda:1"), (5, 7), (4, 3), kernel)


@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.mem_get_info()[1] < 40e9, reason="takes a GPU of 40 GB")
def test_more_than_2_to_the_31_elements(kernel):
    # (1, 5800 * 5800, 2, 32) bf16 is 2.15e9 elements, 4.3 GB; queries look at the map's last rows
    value = torch.zeros(1, 5800 * 5800, 2, 32, dtype=BF16, device="cuda")
    value[:, -5800:] = 1
    offsets, logits = torch.zeros(1, 4, 2, 4, 2, device="cuda"), torch.zeros(1, 4, 2, 4, device="cuda")
    offsets[:, 2:, :, :, 1] = 1449.5  # from row (1.5 / 2) * 5800 - 0.5 = 4349.5 to 5799, the last
    value.requires_grad_()
    out = deform_attn(value, offsets, logits, (5800, 5800), (2, 2), kernel=kernel)
    assert (out[0, 2:] == 1).all()
    assert (out[0, :2] == 0).all()
    (grad_value,) = torch.autograd.grad(out.sum(), value)
    assert grad_value[0, -5800:].float().sum() == 2 * 2 * 32
