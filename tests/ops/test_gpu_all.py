"""The run of everything that waits for a GPU, with other steps in the place of its own."""

import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "benchmarks"
DOCUMENT = {"machine": {"gpu": "none"}, "rows": [{"method": "cuda", "forward us": 40.0}], "summary": {"bar": "met"}}


@pytest.fixture
def gpu_all(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu_all

    return gpu_all


def test_a_failure_and_a_step_that_hangs_do_not_stop_the_rest(gpu_all, tmp_path, monkeypatch, capsys):
    script = tmp_path / "benchmark.py"
    script.write_text(f"import sys; print('working', file=sys.stderr); print('''{json.dumps(DOCUMENT)}''')")
    steps = {
        "fails": gpu_all.Step(10, (sys.executable, "-c", "print('so far'); 1 / 0")),
        "hangs": gpu_all.Step(0.01, (sys.executable, "-c", "import time; time.sleep(60)")),
        "works": gpu_all.Step(10, script=str(script)),
    }
    monkeypatch.setattr(gpu_all, "STEPS", steps)

    assert gpu_all.main([str(tmp_path / "out"), "--only", "fails", "hangs"]) == 1
    assert gpu_all.main([str(tmp_path / "out"), "--only", "works"]) == 0

    said = capsys.readouterr().out
    assert "fails: exit 1" in said
    assert "hangs: stopped after" in said
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results) == list(steps)
    assert results["works"]["document"] == DOCUMENT
    assert "| cuda | 40 |" in (tmp_path / "out" / "results.md").read_text()
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "ZeroDivisionError" in log
    assert "working" in log
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["log.txt", "results.json", "results.md"]


def test_steps_for_which_no_time_is_left_are_named(gpu_all, tmp_path, capsys):
    assert gpu_all.main([str(tmp_path), "--minutes", "0.1", "--only", "build"]) == 1
    assert capsys.readouterr().out == "build: not started, no time left\n"


def test_every_step_is_there_to_be_run(gpu_all, tmp_path, capsys):
    assert gpu_all.main([str(tmp_path), "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(gpu_all.STEPS)
    for step in gpu_all.STEPS.values():
        assert not step.script or (FOLDER / step.script).exists()
    assert sum(step.minutes for step in gpu_all.STEPS.values()) < 29


def test_methods_that_steps_ask_for_exist(gpu_all):
    import gpu_kernels

    for step in gpu_all.STEPS.values():
        if step.script == "gpu_kernels.py":
            asked = step.arguments[step.arguments.index("--methods") + 1 :]
            assert set(asked) <= set(gpu_kernels.METHODS)
