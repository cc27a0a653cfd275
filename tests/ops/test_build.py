import os
import subprocess
import sys

import pytest

from piip.ops import build
from piip.ops.compiled import cpu
from piip.ops.deform_attn import active_kernel

USE = """
import torch
from piip.ops.deform_attn import active_kernel, deform_attn

tensors = torch.rand(1, 4, 1, 2), torch.rand(1, 6, 1, 4, 2), torch.rand(1, 6, 1, 4)
for _ in range(2):
    print(active_kernel(), deform_attn(*tensors, (2, 2), (2, 3)).shape)
try:
    deform_attn(*tensors, (2, 2), (2, 3), kernel="cpp")
except RuntimeError as error:
    print(error)
"""


@pytest.mark.slow
def test_without_a_compiler_one_line_says_so_and_the_reference_runs(tmp_path):
    environment = {"CXX": "/nonexistent", "PIIP_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", USE], env=_with(environment), capture_output=True, text=True, check=True
    )

    lines = done.stdout.splitlines()
    assert lines[:2] == ["reference torch.Size([1, 6, 2])"] * 2
    assert lines[2].startswith("kernel='cpp' cannot run: no C++ compiler '/nonexistent'")
    assert "apt install g++" in lines[2]
    said = [line for line in done.stderr.splitlines() if "plain PyTorch runs instead" in line]
    assert len(said) == 1
    assert "no C++ compiler '/nonexistent'" in said[0]


def quick_compiler(folder):
    """A g++ that does not optimise, and writes a line for every library it links."""
    script = folder / "quick"
    script.write_text(f'#!/bin/sh\n[ "$1" = -shared ] && echo linked >> {folder}/linked\nexec g++ "$@" -O0\n')
    script.chmod(0o755)
    return str(script)


@pytest.mark.slow
def test_the_command_says_what_it_did(tmp_path, compiled):
    environment = _with({"PIIP_HOME": str(tmp_path), "CXX": quick_compiler(tmp_path)})
    for seconds in ("time      ", "time      0 s, it was compiled before"):
        command = [sys.executable, "-m", "piip.ops.build"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        assert lines[0].startswith("compiler  ")
        assert lines[1].startswith(seconds)
        assert lines[2].startswith(f"library   {tmp_path}")
        assert lines[3] == "kernel    cpp"


def test_a_failing_compiler_is_quoted(monkeypatch, tmp_path):
    failing = tmp_path / "g++"
    failing.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo 1.0 && exit\necho "x.cpp:1: error: no such thing" >&2\nexit 1\n'
    )
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    monkeypatch.setenv("PIIP_HOME", str(tmp_path))
    with pytest.raises(cpu.BuildError, match=r"failed: x.cpp:1: error: no such thing .*C\+\+20"):
        cpu.compile_sources()


def test_a_compiler_that_somebody_named_is_to_work(monkeypatch, capsys):
    monkeypatch.setattr(cpu, "loaded", lambda: "it failed")
    monkeypatch.delenv("PIIP_KERNEL", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    without = build.cli([])
    monkeypatch.setenv("CXX", "nothere")

    assert (without, build.cli([])) == (0, 1)
    assert capsys.readouterr().out == "kernel    reference\n" * 2


@pytest.mark.slow
def test_workers_that_start_together_compile_once(tmp_path, compiled):
    environment = _with({"PIIP_HOME": str(tmp_path), "CXX": quick_compiler(tmp_path)})
    program = "from piip.ops.compiled import cpu; assert cpu.load(), cpu.problem()"
    workers = [subprocess.Popen([sys.executable, "-c", program], env=environment) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert (tmp_path / "linked").read_text() == "linked\n"
    assert not list((tmp_path / "kernels").glob("building_*"))


def test_with_a_compiler_the_compiled_kernel_runs_unasked(monkeypatch, compiled):
    monkeypatch.delenv("PIIP_KERNEL", raising=False)
    assert active_kernel() == "cpp"


def _with(changes):
    """This environment with some variables replaced."""
    return {**{k: v for k, v in os.environ.items() if k != "PIIP_KERNEL"}, **changes}
