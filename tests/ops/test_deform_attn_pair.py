"""Two directions by one op. On the CPU the op is two calls; test_cuda_torch_on_host.py holds its CUDA form to them, and a GPU's tests."""

import pytest
import torch
from test_deform_attn_packed import QUERY_HW, VALUE_HW, gradients, inputs
from torch.utils.flop_counter import FlopCounterMode

from piip.models.meeting.interaction import InteractionUnit
from piip.ops import deform_attn_pair as pair
from piip.ops.deform_attn_packed import deform_attn_packed
from piip.ops.deform_attn_pair import Direction, deform_attn_pair
from piip.spec import InteractionSpec


def directions(**options):
    return [Direction(*inputs(dim, **options), VALUE_HW, QUERY_HW) for dim in (6, 12)]


def tensors(both):
    return [t for direction in both for t in direction[:2]]


@pytest.fixture(params=[False, True])
def by_op(request, monkeypatch):
    """Two calls, or the op that CUDA has."""
    if request.param:
        request.getfixturevalue("compiled")
        monkeypatch.setattr(pair, "_by_cuda", lambda *given: True)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_two_calls(by_op, dtype):
    both = directions(value_dtype=dtype)

    outs = deform_attn_pair(*both)

    for out, direction in zip(outs, both, strict=True):
        assert torch.equal(out, deform_attn_packed(*direction))
    expected = [g for d in both for g in gradients(deform_attn_packed(*d), d[:2])]
    weights = [torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out.dtype) for out in outs]
    for actual, wanted in zip(torch.autograd.grad(outs, tensors(both), weights), expected, strict=True):
        assert torch.equal(actual, wanted)


@pytest.mark.usefixtures("by_op")
def test_one_of_the_two_may_be_asked_for_alone():
    both = directions()
    outs = deform_attn_pair(*both)
    for actual, wanted in zip(
        gradients(outs[1], both[1][:2]), gradients(deform_attn_packed(*both[1]), both[1][:2]), strict=True
    ):
        assert torch.equal(actual, wanted)


@pytest.mark.usefixtures("compiled")
def test_opcheck():
    both, hw = directions(), [*VALUE_HW, *QUERY_HW] * 2
    torch.library.opcheck(pair._FORWARD, (*tensors(both), hw))
    grads_out = [torch.ones(2, 12, 18), torch.ones(2, 12, 36)]
    torch.library.opcheck(pair._BACKWARD, (*grads_out, *(t.detach() for t in tensors(both)), hw))


@pytest.mark.usefixtures("by_op")
def test_compiles_into_one_graph():
    both = directions()
    compiled = torch.compile(lambda *d: deform_attn_pair(*d), backend="aot_eager", fullgraph=True)
    for out, direction in zip(compiled(*both), both, strict=True):
        torch.testing.assert_close(out, deform_attn_packed(*direction))


@pytest.mark.usefixtures("compiled")
def test_flops_are_those_of_two_calls(monkeypatch):
    both, counts = directions(), []
    for by_op in (False, True):
        monkeypatch.setattr(pair, "_by_cuda", lambda *given, by_op=by_op: by_op)
        with FlopCounterMode(display=False) as counter:
            deform_attn_pair(*both, kernel="cpp")
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_unit_is_the_same_with_the_op(monkeypatch, precision):
    torch.manual_seed(0)
    unit = InteractionUnit(32, 64, InteractionSpec(num_heads=4)).eval()  # no drop path
    for injector in (unit.to_high, unit.to_low):  # they start at 0, and then add nothing
        torch.nn.init.ones_(injector.ca_gamma)
    tokens, outcomes = [torch.randn(2, 35, 32), torch.randn(2, 12, 64)], []
    for by_op in (False, True):
        calls = []
        monkeypatch.setattr(pair, "_by_cuda", lambda *given, by_op=by_op, calls=calls: calls.append(1) or by_op)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            outs = unit(*tokens, (5, 7), (4, 3))
        assert calls
        outcomes.append(outs + torch.autograd.grad([o.float().square().sum() for o in outs], list(unit.parameters())))
    for actual, wanted in zip(*outcomes, strict=True):
        assert torch.equal(actual, wanted)


@pytest.mark.usefixtures("by_op")
def test_wrong_shapes_are_refused_in_words():
    one, other = directions()
    with pytest.raises(ValueError, match="15"):
        deform_attn_pair(one, other._replace(query_hw=(5, 3)))
