"""What experiments/benchmarks/gpu_kernels.py does without a GPU; with one it holds every method to float64 itself."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from piip.ops.deform_attn_packed import deform_attn_packed
from piip.ops.deform_attn_pair import Direction, deform_attn_pair

SCRIPT = Path(__file__).parents[2] / "experiments" / "benchmarks" / "gpu_kernels.py"


@pytest.fixture
def gpu_kernels(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu_kernels

    return gpu_kernels


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_benchmark_is_one_line_and_a_failure():
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("no CUDA GPU here")
    assert done.stderr.count("\n") == 1


def test_the_cases_are_the_paper_rows_at_1568x1120(gpu_kernels):
    cases = gpu_kernels.cases()
    assert list(cases)[:5] == ["TSB interaction", "TSB b2->b3 D6", "TSB b3->b2 D12", "TSB b1->b2 D12", "TSB b2->b1 D24"]
    # 192, 384 and 768 channels, halved, over 16 heads
    assert [d.dim for d in cases["TSB interaction"]] == [6, 12, 12, 24]
    assert [d.dim for d in cases["SBL interaction"]] == [12, 24, 24, 32]


def test_methods_get_the_inputs_they_take(gpu_kernels):
    tiny = gpu_kernels.Direction((3, 4), (5, 6), 6)
    (value, offsets, logits), grad_out = gpu_kernels.METHODS["plain"].inputs(tiny, "bf16", "cpu")
    (_, packed), _ = gpu_kernels.METHODS["cuda"].inputs(tiny, "bf16", "cpu")
    assert torch.equal(packed, torch.cat([offsets.flatten(2), logits.flatten(2)], -1))
    assert packed.is_leaf
    assert packed.requires_grad

    out = gpu_kernels.METHODS["plain"]([value, offsets, logits], tiny)
    gradients = gpu_kernels.METHODS["plain"].gradients(out, [value, offsets, logits], grad_out)

    exact = gpu_kernels.reference(value.double(), offsets.double(), logits.double(), (3, 4), (5, 6))
    torch.testing.assert_close(out.double(), exact, rtol=1e-2, atol=1e-2)
    assert [g.shape for g in gradients] == [value.shape, offsets.shape, logits.shape]


def test_a_unit_is_one_call_and_a_direction_alone_is_another(gpu_kernels):
    tiny = [gpu_kernels.Direction((3, 4), (5, 6), 6), gpu_kernels.Direction((5, 6), (3, 4), 12)]

    def both(one, other):
        return deform_attn_pair(Direction(*one), Direction(*other))

    method = dataclasses.replace(gpu_kernels.METHODS["cuda"], call=deform_attn_packed, both=both)
    given, grad_outs = zip(*(method.inputs(d, "fp32", "cpu") for d in tiny), strict=True)
    assert list(method.units(tiny[:1])) == []
    (unit,) = method.units(tiny)
    outs = method.unit(given[unit], tiny[unit])
    found = method.gradients(outs, [t for leaves in given for t in leaves], grad_outs)
    for i, direction in enumerate(tiny):
        alone = method(given[i], direction)
        assert torch.equal(outs[i], alone)
        wanted = method.gradients(alone, given[i], grad_outs[i])
        assert all(torch.equal(a, e) for a, e in zip(found[2 * i : 2 * i + 2], wanted, strict=True))


@pytest.mark.usefixtures("compiled")
def test_ops_without_a_registered_gradient_get_one(gpu_kernels):
    import gpu_methods

    tiny = gpu_kernels.Direction((3, 4), (5, 6), 6)
    ops = torch.ops.piip.deform_attn_forward, torch.ops.piip.deform_attn_backward
    method = gpu_methods.Method(lambda *given: gpu_methods._Ops.apply(*ops, *given[:3], *given[3], *given[4]))
    given, grad_out = method.inputs(tiny, "fp32", "cpu")
    out, wanted = method(given, tiny), gpu_kernels.METHODS["plain"](given, tiny)
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)
    pairs = zip(method.gradients(out, given, grad_out), method.gradients(wanted, given, grad_out), strict=True)
    for actual, expected in pairs:
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_list_says_what_has_to_move(gpu_kernels, capsys):
    assert gpu_kernels.main(["--list", "--json", "--only", "TSB"]) == 0
    rows = {row["case"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    # b3->b2 in bf16, batch 2, 16 heads: 6860 pixels and 3500 queries of 12 channels, 12 numbers for a head's 4 points
    assert rows["TSB b3->b2 D12"]["forward MB"] == pytest.approx(2 * 16 * 2 * (6860 * 12 + 3500 * (12 + 12)) / 1e6)
    assert rows["TSB b3->b2 D12"]["backward MB"] == pytest.approx(2 * 16 * 2 * (2 * 6860 * 12 + 3500 * (24 + 12)) / 1e6)
    parts = [row["backward MB"] for case, row in rows.items() if case != "TSB interaction"]
    assert rows["TSB interaction"]["backward MB"] == pytest.approx(sum(parts))


def test_ncu_says_a_command_for_the_case(gpu_kernels, capsys):
    assert gpu_kernels.main(["--ncu", "--only", "SBL inter", "--once", "cuda, planes"]) == 0
    assert "--once 'cuda, planes' --only 'SBL interaction' --storage bf16" in capsys.readouterr().out


def test_rows_and_bars_come_from_microseconds(gpu_kernels):
    forward, backward = {"cuda": 40.0, "classic": 200.0, "plain": 150.0}, {"cuda": 160.0, "classic": 1600.0}
    row = gpu_kernels.row("TSB interaction", "cuda", "bf16", forward, backward, 1e-3)
    assert row["forward x classic"] == 5.0
    assert row["forward x plain"] == 3.75
    assert row["forward GB/s"] == pytest.approx(gpu_kernels.megabytes("TSB interaction", "bf16")[0] / 40e-6 / 1e3)
    said = gpu_kernels.bars([row, row | {"method": "triton"}])
    assert said == {
        "bar, TSB interaction, forward us": "40, wanted at most 45: met",
        "bar, TSB interaction, backward us": "160, wanted at most 150: MISSED",
        "bar, TSB interaction, forward x": "3.75, wanted at least 4: MISSED",
    }  # plain was not timed backward


def test_a_wrong_name_says_which_there_are(gpu_kernels):
    with pytest.raises(SystemExit, match=r"no such case. There are: TSB interaction"):
        gpu_kernels.main(["--only", "XL"])
    with pytest.raises(SystemExit):
        gpu_kernels.main(["--methods", "magic"])
