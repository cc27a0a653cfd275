import os
import subprocess
import sys

import pytest

from piip.ops import build
from piip.ops.compiled import check, cpu, cuda
from piip.ops.compiled.check import Kernel


def kernel(name="backward 12", architecture="90", spilled=0, loads=None, reds=None):
    return Kernel("deform_attn", "float_float", architecture, name, 64, spilled, 1000, loads or {}, reds or {})


def test_faults_are_found():
    assert kernel(loads={"128": 4}, reds={"F32x4": 48}).faults() == []
    assert kernel(loads={"128": 4}, reds={"F32": 192}).faults() == ["no vector RED"]
    assert kernel(loads={"128": 4}, reds={"F32": 192}, architecture="80").faults() == []
    assert kernel(name="forward 6", loads={"64": 4}).faults() == ["no load of 128 bits"]
    assert kernel(name="backward 12, no value", loads={"128": 4}).faults() == []
    assert kernel(name="backward 12+24", loads={"128": 4}).faults() == ["no vector RED"]
    assert kernel(name="planes 4", reds={"ATOMS": 34}).faults() == []
    assert kernel(name="planes 4", reds={"ATOMS": 2, "CAS": 32}).faults() == ["no native shared additions"]
    assert kernel(name="forward any", spilled=8).faults() == ["8 bytes of stack"]


@pytest.mark.slow
def test_compiled_for_sm_90_without_spills_and_with_vector_instructions():
    try:
        cuda.find_nvcc()
        check.find_nvdisasm()
    except cpu.BuildError as error:
        pytest.skip(str(error))

    # six widths and any: forward; backward in floats, in integers, without the value; three pairs of widths, forward and backward; planes
    # of 1, 2 or 4 channels, 4 points or any. 16, 32 and any: forward; backward in floats and in integers
    for op, expected in (("deform_attn", 7 * 4 + 3 * 2 + 3 * 2), ("sampling", 3 * 3)):
        found = check.kernels(op, "bfloat_bfloat", "90")
        assert len(found) == expected
        assert [k for k in found if k.faults()] == []


@pytest.mark.long
def test_the_library_links_loads_and_adds_a_cuda_kernel_to_every_op(tmp_path):
    """Minutes of nvcc. In a process of its own: a library cannot be let go of."""
    try:
        cuda.find_nvcc()
    except cpu.BuildError as error:
        pytest.skip(str(error))
    program = """
import torch
from piip.ops import dcnv3, deform_attn_pair, msda
from piip.ops.compiled import cuda
torch.ops.load_library(cuda.compile_sources(("90",)).path)
for op in ("deform_attn", "deform_attn_packed", "deform_attn_pair", "msda", "dcnv3"):
    for way in ("forward", "backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"piip::{op}_{way}", "CUDA"), op
"""
    environment = os.environ | {"PIIP_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_no_nvcc_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("NVCC", "/nonexistent")
    assert build.cli(["--cuda", "--check"]) == 1
    assert build.cli(["--cuda"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "no CUDA compiler '/nonexistent'" in said[0]
