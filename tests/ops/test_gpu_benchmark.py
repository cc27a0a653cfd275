"""What experiments/benchmarks/gpu_kernels.py does without a GPU; with one it holds every method to float64 itself."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "experiments" / "benchmarks" / "gpu_kernels.py"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_benchmark_is_one_line_and_a_failure():
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("no CUDA GPU here")
    assert done.stderr.count("\n") == 1


def test_the_cases_are_the_paper_rows_at_1568x1120(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu_kernels

    cases = gpu_kernels.cases()
    assert list(cases)[:5] == ["TSB interaction", "TSB b3->b2 D12", "TSB b2->b3 D6", "TSB b2->b1 D24", "TSB b1->b2 D12"]
    # 192, 384 and 768 channels, halved, over 16 heads
    assert [d.dim for d in cases["TSB interaction"]] == [12, 6, 24, 12]
    assert [d.dim for d in cases["SBL interaction"]] == [24, 12, 32, 24]
    tiny = gpu_kernels.Direction((3, 4), (5, 6), 6)
    given, grad_out = tiny.tensors("bf16", "cpu")
    plain = gpu_kernels.run(gpu_kernels.plain, given, tiny)
    exact = gpu_kernels.run(gpu_kernels.reference, [t.double() for t in given], tiny)
    assert plain.dtype == grad_out.dtype == torch.bfloat16
    torch.testing.assert_close(plain.double(), exact, rtol=1e-2, atol=1e-2)
