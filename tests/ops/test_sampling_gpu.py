"""msda and dcnv3 on a GPU: `pytest -m gpu tests/ops`. Without one, test_sampling_cuda_on_host.py says most of it."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from test_sampling import CALLS, msda_call

from piip.ops import dcnv3
from piip.ops.compiled import cuda

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = {FP32: 2e-5, FP16: 4e-3, BF16: 3e-2}
each_op = pytest.mark.parametrize("op", CALLS)


@pytest.fixture(autouse=True)
def _built():
    assert cuda.load(), cuda.problem()


def outcome(call, tensors, kernel):
    out = call.run(*tensors, kernel=kernel)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64, device=out.device).view_as(out).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, tensors, weight)]


def on_gpu(call, *dtypes):
    return [t.detach().cuda().to(d).requires_grad_() for t, d in zip(call.tensors, dtypes, strict=True)]


def assert_is_reference(call, tensors):
    exact = outcome(call, [t.detach().double().requires_grad_() for t in tensors], "reference")
    for a, e in zip(outcome(call, tensors, "cuda"), exact, strict=True):
        if e.numel():
            assert (a.double() - e).abs().max() <= TOLERANCE[a.dtype] * max(1.0, e.abs().max().item())


@each_op
@pytest.mark.parametrize("dim", [1, 6, 16, 32, 70])
@pytest.mark.parametrize("dtypes", [(FP32,) * 3, (BF16, FP32, FP32), (FP16, FP32, FP32), (BF16, BF16, BF16)])
def test_is_the_reference(op, dim, dtypes):
    call = CALLS[op](dim=dim)
    assert_is_reference(call, on_gpu(call, *dtypes))


@each_op
def test_cuda_is_chosen_unasked(op, monkeypatch):
    monkeypatch.delenv("PIIP_KERNEL", raising=False)
    call = CALLS[op]()
    tensors = on_gpu(call, FP32, FP32, FP32)
    with torch.no_grad():
        assert torch.equal(call.run(*tensors, kernel="auto"), call.run(*tensors, kernel="cuda"))


@each_op
@pytest.mark.parametrize("dim", [6, 16, 32])
def test_deterministic_gradients_have_the_same_bits_and_are_the_reference(op, dim):
    call = CALLS[op](
        dim=dim, **({"hw": (40, 56)} if op == "dcnv3" else {"shapes": ((11, 13), (5, 6)), "queries": 3500})
    )
    tensors = on_gpu(call, FP32, FP32, FP32)
    torch.use_deterministic_algorithms(True)
    try:
        first = outcome(call, tensors, "cuda")
        for _ in range(5):
            assert all(torch.equal(a, b) for a, b in zip(first, outcome(call, tensors, "cuda"), strict=True))
    finally:
        torch.use_deterministic_algorithms(False)
    assert_is_reference(call, tensors)


@pytest.mark.parametrize("case", json.loads((GOLDEN / "dcnv3_op.json").read_text()))
def test_official_numbers_of_dcnv3(case):
    said = json.loads((GOLDEN / "dcnv3_op.json").read_text())[case]
    arrays = np.load(GOLDEN / "dcnv3_op.npz")
    names = ("input", "offset", "mask", "grad_out", "output", "grad_input", "grad_offset", "grad_mask")
    *given, grad_out, out, grad_value, grad_offsets, grad_mask = (
        torch.from_numpy(arrays[f"{case}/{n}"]).cuda() for n in names
    )
    tensors = [t.float().requires_grad_() for t in given]
    geometry = {n: said[n] for n in ("stride", "pad", "dilation", "offset_scale")}
    geometry |= {"kernel_size": said["kernel"], "groups": said["group"], "remove_center": bool(said["remove_center"])}
    actual = dcnv3.dcnv3(*tensors, **geometry, kernel="cuda")
    results = [actual, *torch.autograd.grad(actual, tensors, grad_out.float())]
    for a, e in zip(results, (out, grad_value, grad_offsets, grad_mask), strict=True):
        assert (a.double() - e).abs().max() <= 2e-5 * max(1.0, e.abs().max().item())


@each_op
def test_strided_inputs_an_expanded_gradient_and_nothing_to_do(op):
    call = CALLS[op](batch=4)
    tensors = on_gpu(call, FP32, FP32, FP32)
    results = []
    for kernel in ("cuda", "reference"):
        out = call.run(*(t[::2] for t in tensors), kernel=kernel)
        results.append([out, *torch.autograd.grad(out.sum(), tensors)])
    for actual, wanted in zip(*results, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4)
    empty = CALLS[op](batch=0)
    assert_is_reference(empty, on_gpu(empty, FP32, FP32, FP32))


@each_op
def test_opcheck(op):
    call = CALLS[op]()
    tensors = on_gpu(call, FP32, FP32, FP32)
    forward, arguments = call.raw(*tensors)
    torch.library.opcheck(forward, arguments)
    grad_out = torch.ones_like(forward(*arguments)).detach()
    _, plain = call.raw(*(t.detach() for t in tensors))
    backward = getattr(torch.ops.piip, f"{op}_backward").default
    torch.library.opcheck(backward, (grad_out, *plain), {"deterministic": True})


@each_op
def test_compiles_into_one_graph(op):
    call = CALLS[op]()
    tensors = on_gpu(call, FP32, FP32, FP32)
    compiled = torch.compile(partial(call.run, kernel="cuda"), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*tensors), call.run(*tensors, kernel="cuda"))


def test_too_many_levels_are_refused_in_words():
    call = msda_call(shapes=((1, 1),) * 65, points=1)
    with pytest.raises(RuntimeError, match=r"at most 64 levels .* got 65. Take kernel='reference'"):
        call.run(*on_gpu(call, FP32, FP32, FP32), kernel="cuda")
