"""The Triton kernel in Triton's interpreter, which wants a process of its own: the variable is read when kernels are defined."""

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

PROGRAM = """
import torch
from piip.ops import deform_attn_triton
from piip.ops.deform_attn import reference

TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def check(dim, points, value_hw, query_hw, dtype, deterministic, batch=1, heads=1):
    torch.manual_seed(0)
    queries = query_hw[0] * query_hw[1]
    value, offsets = torch.randn(batch, value_hw[0] * value_hw[1], heads, dim), 2 * torch.randn(batch, queries, heads, points, 2)
    logits, grad_out = torch.randn(batch, queries, heads, points), torch.randn(batch, queries, heads * dim)
    value, offsets, logits, grad_out = (t.to(dtype) for t in (value, offsets, logits, grad_out))
    exact = [t.double().requires_grad_() for t in (value, offsets, logits)]
    out = reference(*exact, value_hw, query_hw)
    expected = [out, *torch.autograd.grad(out, exact, grad_out.double())]
    actual = [
        deform_attn_triton.forward(value, offsets, logits, *value_hw, *query_hw),
        *deform_attn_triton.backward(grad_out, value, offsets, logits, *value_hw, *query_hw, deterministic=deterministic),
    ]
    for a, e in zip(actual, expected, strict=True):
        error = (a.double() - e).abs().max().item() / max(1.0, e.abs().max().item())
        assert a.dtype == dtype and error < TOLERANCE[dtype], (dim, points, dtype, deterministic, error)


def check_outside():
    value = torch.full((1, 9, 1, 3), float("inf"))
    value[:, 4] = float("nan")
    offsets = torch.randn(1, 9, 1, 2, 2).sign() * torch.tensor([4.0, 1e30])
    logits, grad_out = torch.randn(1, 9, 1, 2), torch.randn(1, 9, 3)
    assert (deform_attn_triton.forward(value, offsets, logits, 3, 3, 3, 3) == 0).all()
    for gradient in deform_attn_triton.backward(grad_out, value, offsets, logits, 3, 3, 3, 3):
        assert (gradient == 0).all()
    offsets[0, 5, 0, 1, 0] = float("nan")
    out = deform_attn_triton.forward(value, offsets, logits, 3, 3, 3, 3)
    assert out[0, 5].isnan().all() and out.isnan().sum() == 3


def check_empty():
    shapes = (2, 9, 1, 3), (2, 0, 1, 2, 2), (2, 0, 1, 2)
    tensors = [torch.ones(shape) for shape in shapes]
    assert deform_attn_triton.forward(*tensors, 3, 3, 0, 3).shape == (2, 0, 3)
    assert (deform_attn_triton.backward(torch.ones(2, 0, 3), *tensors, 3, 3, 0, 3)[0] == 0).all()
"""

QUICK = """
check(6, 2, (3, 5), (2, 3), torch.float32, False)
check_empty()
"""

REST = """
check(6, 4, (3, 5), (7, 5), torch.float32, False, heads=2)
check(5, 3, (1, 1), (2, 2), torch.float32, True, batch=2)
check(12, 4, (4, 3), (3, 3), torch.bfloat16, False)
check(24, 4, (4, 3), (3, 3), torch.float16, True)
check(40, 9, (2, 3), (3, 2), torch.float32, False)
check(100, 4, (2, 3), (3, 2), torch.float32, False)
check_outside()
"""


def interpret(program: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", PROGRAM + program], env=environment, check=True)


@pytest.mark.slow
def test_triton_is_the_reference():
    interpret(QUICK)


@pytest.mark.slow
def test_triton_is_the_reference_for_any_width_number_of_points_and_dtype():
    interpret(REST)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from piip.ops import deform_attn_triton

SIZES = {"N": 16, "D": 6, "P": 4, "BQ": 32, "BD": 8, "BP": 4}


def compile_for(architecture, kernel, sizes):
    sums = "*i64" if sizes.get("FIXED") else "*fp32"
    kinds = {"grad_value_ptr": sums, "scale_ptr": "*fp32"} | dict.fromkeys(sizes, "constexpr")
    signature = {name: kinds.get(name, "*bf16" if name.endswith("_ptr") else "i32") for name in kernel.arg_names}
    source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=sizes)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": 4})
    assert compiled.asm["cubin"]
    return compiled.asm["ptx"]


compile_for(90, deform_attn_triton._forward, SIZES)
assert "red.global.gpu.relaxed.add.f32" in compile_for(90, deform_attn_triton._backward, SIZES | {"FIXED": False})
assert "red.global.gpu.relaxed.add.u64" in compile_for(90, deform_attn_triton._backward, SIZES | {"FIXED": True})
"""


@pytest.mark.slow
def test_triton_compiles_for_a_gpu_that_is_not_here():
    """The interpreter takes more than the compiler does."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
