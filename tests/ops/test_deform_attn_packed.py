import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from piip.ops.deform_attn import deform_attn
from piip.ops.deform_attn_packed import deform_attn_packed

VALUE_HW, QUERY_HW, HEADS = (5, 7), (4, 3), 3


def inputs(dim=6, num_points=4, *, queries=12, value_dtype=torch.float32, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 35, HEADS, dim, generator=generator, dtype=torch.float64)
    packed = 2 * torch.randn(2, queries, 3 * HEADS * num_points, generator=generator, dtype=torch.float64)
    return value.to(value_dtype).requires_grad_(), packed.to(dtype).requires_grad_()


def apart(packed):
    offsets, logits = packed.split([packed.shape[-1] // 3 * 2, packed.shape[-1] // 3], -1)
    return offsets.unflatten(-1, (HEADS, -1, 2)), logits.unflatten(-1, (HEADS, -1))


def gradients(out, tensors):
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out.dtype)
    return torch.autograd.grad(out, tensors, weight)


@pytest.mark.parametrize("num_points", [1, 4, 5, 32])
@pytest.mark.parametrize(
    ("value_dtype", "dtype"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float64, torch.float64),
        (torch.float16, torch.float32),
    ],
)
def test_it_is_deform_attn_of_the_two_parts(kernel, num_points, value_dtype, dtype):
    tensors = inputs(num_points=num_points, value_dtype=value_dtype, dtype=dtype)
    value, packed = tensors

    out = deform_attn_packed(value, packed, VALUE_HW, QUERY_HW, kernel=kernel)
    expected = deform_attn(value, *apart(packed), VALUE_HW, QUERY_HW, kernel=kernel)

    assert out.dtype == value_dtype
    assert torch.equal(out, expected)
    for actual, wanted in zip(gradients(out, tensors), gradients(expected, tensors), strict=True):
        assert torch.equal(actual, wanted)


def test_one_layer_with_both_weights_is_two_layers(kernel):
    value, _ = inputs()
    query, offsets, logits = torch.randn(2, 12, 16), torch.nn.Linear(16, 24), torch.nn.Linear(16, 12)
    parameters = [offsets.weight, offsets.bias, logits.weight, logits.bias]

    both = F.linear(query, torch.cat([offsets.weight, logits.weight]), torch.cat([offsets.bias, logits.bias]))
    out = deform_attn_packed(value, both, VALUE_HW, QUERY_HW, kernel=kernel)
    two = offsets(query).unflatten(-1, (HEADS, 4, 2)), logits(query).unflatten(-1, (HEADS, 4))
    expected = deform_attn(value, *two, VALUE_HW, QUERY_HW, kernel=kernel)

    torch.testing.assert_close(out, expected)
    for actual, wanted in zip(gradients(out, parameters), gradients(expected, parameters), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


def test_a_packed_tensor_that_is_a_view_or_has_no_query(kernel):
    value, packed = inputs()
    wide = torch.cat([packed, packed], -1)[..., :36]
    assert torch.equal(
        deform_attn_packed(value, wide, VALUE_HW, QUERY_HW, kernel=kernel),
        deform_attn_packed(value, packed, VALUE_HW, QUERY_HW, kernel=kernel),
    )
    none = packed.detach()[:, :0].requires_grad_()
    out = deform_attn_packed(value, none, VALUE_HW, (0, 3), kernel=kernel)
    assert out.shape == (2, 0, 18)
    assert all((g == 0).all() for g in torch.autograd.grad(out.sum(), (value, none)))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    value, packed = inputs(value_dtype=dtype, dtype=dtype)
    torch.library.opcheck(torch.ops.piip.deform_attn_packed_forward.default, (value, packed, 5, 7, 4, 3))
    plain = [t.detach() for t in (torch.ones(2, 12, 18, dtype=dtype), value, packed)]
    torch.library.opcheck(torch.ops.piip.deform_attn_packed_backward.default, (*plain, 5, 7, 4, 3))


def test_compiles_into_one_graph(kernel):
    tensors = inputs()
    compiled = torch.compile(
        lambda *t: deform_attn_packed(*t, VALUE_HW, QUERY_HW, kernel=kernel), backend="aot_eager", fullgraph=True
    )
    out, expected = compiled(*tensors), deform_attn_packed(*tensors, VALUE_HW, QUERY_HW, kernel=kernel)
    torch.testing.assert_close(out, expected)
    for actual, wanted in zip(gradients(out, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.usefixtures("compiled")
def test_flops_are_those_of_deform_attn():
    value, packed = inputs()
    counts = []
    for call in (
        lambda: deform_attn_packed(value, packed, VALUE_HW, QUERY_HW, kernel="cpp"),
        lambda: deform_attn(value, *apart(packed), VALUE_HW, QUERY_HW, kernel="cpp"),
    ):
        with FlopCounterMode(display=False) as counter:
            call()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.usefixtures("compiled")
def test_second_derivative_says_what_to_do():
    value, packed = inputs()
    out = deform_attn_packed(value, packed, VALUE_HW, QUERY_HW, kernel="cpp")
    (grad_value,) = torch.autograd.grad(out.square().sum(), (value,), create_graph=True)
    with pytest.raises(NotImplementedError, match="kernel='reference'"):
        grad_value.sum().backward()


def test_wrong_shapes_are_refused_in_words(kernel):
    value, packed = inputs()
    with pytest.raises(ValueError, match="N = 3 heads"):
        deform_attn_packed(value, packed[..., :35], VALUE_HW, QUERY_HW, kernel=kernel)
    with pytest.raises(ValueError, match="36"):
        deform_attn_packed(value, packed, (6, 6), QUERY_HW, kernel=kernel)
    with pytest.raises(ValueError, match="15"):
        deform_attn_packed(value, packed, VALUE_HW, (5, 3), kernel=kernel)
