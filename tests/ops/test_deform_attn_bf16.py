"""bf16 on the CPU is fp32 with rounded inputs and outputs; to the bit, but for what AVX512-BF16 computes (csrc/deform_attn_bf16.cpp)."""

from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from test_deform_attn import inputs, output_and_gradients

from piip.ops.deform_attn import deform_attn

HALF, FULL = torch.bfloat16, torch.float32
pytestmark = pytest.mark.usefixtures("compiled")
CPU = Path("/proc/cpuinfo")


def with_points(tensors, dtype):
    """The same numbers, but offsets and logits stored as `dtype`."""
    return [tensors[0], *(t.detach().to(dtype).requires_grad_() for t in tensors[1:])]


def in_bf16_and_fp32(tensors, value_hw, query_hw):
    """Output and gradients of the kernel from bf16 tensors, and from the same numbers in fp32."""
    full = [t.detach().float().requires_grad_() for t in tensors]
    out, out_fp32 = (deform_attn(*t, value_hw, query_hw, kernel="cpp") for t in (tensors, full))
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    gradients = torch.autograd.grad(out, tensors, grad_out), torch.autograd.grad(out_fp32, full, grad_out.float())
    return [out, *gradients[0]], [out_fp32, *gradients[1]]


@pytest.mark.parametrize(
    ("capability", "dim", "num_points"),
    [(limit, dim, 4) for limit in ("default", "avx2", "avx512") for dim in (6, 12)] + [("", 6, 3), ("", 24, 4)],
)
def test_without_avx512_bf16_it_is_fp32_with_rounded_inputs_and_outputs(monkeypatch, capability, dim, num_points):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
    tensors = inputs(dim, num_points, (5, 7), (4, 3), dtype=torch.bfloat16)
    for half, full in zip(*in_bf16_and_fp32(tensors, (5, 7), (4, 3)), strict=True):
        assert torch.equal(half, full.bfloat16())


@pytest.mark.skipif("avx512_bf16" not in (CPU.read_text() if CPU.exists() else ""), reason="no AVX512-BF16")
@pytest.mark.parametrize("points", [HALF, FULL])
@pytest.mark.parametrize("dim", [6, 12])
def test_avx512_bf16_is_used_where_it_is(monkeypatch, dim, points):
    """Its last bits are other ones, now and then; `avx512` means no more than that."""
    tensors = with_points(inputs(dim, 4, (20, 28), (14, 20), dtype=torch.bfloat16), points)
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    best = output_and_gradients(tensors, (20, 28), (14, 20), "cpp")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx512")
    limited = output_and_gradients(tensors, (20, 28), (14, 20), "cpp")
    other_bits = [(ours != plain).float().mean().item() for ours, plain in zip(best, limited, strict=True)]
    assert 0 < other_bits[0] < 0.05
    assert sum(other_bits[1:]) > 0


@hypothesis.settings(deadline=None, max_examples=60, derandomize=True)
@hypothesis.given(
    dim=st.integers(1, 18),
    num_points=st.sampled_from([3, 4, 4, 4]),
    value_hw=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    query_hw=st.tuples(st.integers(0, 9), st.integers(1, 9)),
    heads=st.integers(1, 19),
    batch=st.integers(0, 3),
    scatter=st.sampled_from([0.5, 3.0, 30.0]),
    points=st.sampled_from([HALF, FULL]),
)
def test_it_is_fp32_rounded_for_any_shape(dim, num_points, value_hw, query_hw, heads, batch, scatter, points):
    tensors = inputs(
        dim, num_points, value_hw, query_hw, heads=heads, batch=batch, scatter=scatter, dtype=torch.bfloat16
    )
    for half, full in zip(*in_bf16_and_fp32(with_points(tensors, points), value_hw, query_hw), strict=True):
        scale = max(1.0, full.abs().max().item()) if full.numel() else 1.0
        torch.testing.assert_close(half.float(), full, rtol=2**-8, atol=5e-4 * scale)


def off_the_grid(offsets, value_hw, query_hw):
    """Where a pixel ends the gradient jumps: there float32 and float64 may both be right and differ. Moves such points by half a pixel."""
    rows, columns = (torch.arange(n, dtype=torch.float64) + 0.5 for n in query_hw)
    places = (
        torch.stack(
            [
                (columns / query_hw[1] * value_hw[1]).repeat(query_hw[0]),
                (rows / query_hw[0] * value_hw[0]).repeat_interleave(query_hw[1]),
            ],
            -1,
        )[:, None, None]
        - 0.5
    )
    near = ((places + offsets) - (places + offsets).round()).abs() < 1e-3
    return torch.where(near, offsets + 0.5, offsets)


@pytest.mark.parametrize("scatter", [1.0, 20.0])
@pytest.mark.parametrize("points", [HALF, FULL])
@pytest.mark.parametrize("dim", [3, 6, 8, 12, 16])
def test_error_is_that_of_rounding_the_result(dim, points, scatter):
    """Against float64 from the same numbers: at most 1 % more than plain PyTorch, which computes in fp32 and rounds once, if at all."""
    value_hw, query_hw = (20, 28), (14, 20)
    value, offsets, logits = inputs(dim, 4, value_hw, query_hw, scatter=scatter, dtype=torch.bfloat16)
    offsets = off_the_grid(offsets.detach().clamp(-100, 100), value_hw, query_hw).requires_grad_()
    tensors = with_points([value, offsets, logits], points)
    exact = [t.detach().double().requires_grad_() for t in tensors]

    truth, plain, ours = (
        output_and_gradients(t, value_hw, query_hw, kernel)
        for t, kernel in ((exact, "reference"), (tensors, "reference"), (tensors, "cpp"))
    )

    for o, p, t in zip(ours, plain, truth, strict=True):
        assert (o - t).norm() <= 1.01 * (p - t).norm() + 2e-7 * t.norm()
        assert (o - t).norm() <= 2**-8 * t.norm()


def test_large_and_small_logits_and_values():
    value, offsets, logits = inputs(6, 4, (5, 7), (4, 3), dtype=torch.bfloat16)
    logits.data[:, :4] *= 1e4
    logits.data[:, 4:8] += 300.0
    logits.data[:, 8:, :, 0] = -float("inf")
    value.data *= 1e30
    for half, full in zip(*in_bf16_and_fp32([value, offsets, logits], (5, 7), (4, 3)), strict=True):
        scale = max(1.0, full.abs().max().item())
        torch.testing.assert_close(half.float(), full, rtol=2**-8, atol=5e-4 * scale)
