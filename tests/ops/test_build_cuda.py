import pytest

from piip.ops import build, build_cuda, check_cuda
from piip.ops.check_cuda import Kernel


def kernel(name="backward 12", architecture="90", spilled=0, loads=None, reds=None):
    return Kernel("float_float", architecture, name, 64, spilled, 1000, loads or {}, reds or {})


def test_faults_are_found():
    assert kernel(loads={"128": 4}, reds={"F32x4": 48}).faults() == []
    assert kernel(loads={"128": 4}, reds={"F32": 192}).faults() == ["no vector RED"]
    assert kernel(loads={"128": 4}, reds={"F32": 192}, architecture="80").faults() == []
    assert kernel(name="forward 6", loads={"64": 4}).faults() == ["no load of 128 bits"]
    assert kernel(name="forward any", spilled=8).faults() == ["8 bytes of stack"]


@pytest.mark.slow
def test_compiled_for_sm_90_without_spills_and_with_vector_instructions():
    try:
        build_cuda.find_nvcc()
        check_cuda.find_nvdisasm()
    except build.BuildError as error:
        pytest.skip(str(error))

    found = check_cuda.kernels("bfloat_bfloat", "90")

    assert len(found) == 3 * 7  # forward, backward, backward in fixed point; six widths and any
    assert [k for k in found if k.faults()] == []


def test_no_nvcc_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("NVCC", "/nonexistent")
    assert build.main(["--cuda", "--check"]) == 1
    assert build.main(["--cuda"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "no CUDA compiler '/nonexistent'" in said[0]
