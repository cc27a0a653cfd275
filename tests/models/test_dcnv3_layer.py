import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from piip.models.layers.dcnv3 import DCNv3
from piip.ops.compiled import cpu

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "dcnv3_module.json").read_text())


def build_layer(case, scale):
    """The layer of a golden case with its parameters: normal numbers seeded by their keys, norms around 1."""
    said = CASES[case]
    arguments = {"groups" if name == "group" else name: value for name, value in said["kwargs"].items()}
    layer = DCNv3(arguments.pop("channels"), **arguments).double()
    state = {}
    for key, (shape, role) in said["keys"].items():
        numbers = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape) * scale
        state[key] = torch.from_numpy(numbers + (role == "norm_weight"))
    layer.load_state_dict(state)
    return layer


@pytest.mark.parametrize("kernel", ["reference", "cpp"])
@pytest.mark.parametrize(("fill", "scale"), [("weak", 0.02), ("strong", 0.2)])
@pytest.mark.parametrize("case", CASES)
def test_official_numbers(monkeypatch, case, fill, scale, kernel):
    """InternImage's module in float64, with its keys: plain, wide offsets, and with the gate and 5x5 convolution of -H and -G."""
    if kernel == "cpp" and not cpu.load():
        pytest.skip(cpu.problem())
    monkeypatch.setenv("PIIP_KERNEL", kernel)
    golden = np.load(GOLDEN / "dcnv3_module.npz")
    out = build_layer(case, scale)(torch.from_numpy(golden["input"]))
    torch.testing.assert_close(out, torch.from_numpy(golden[f"{case}_{fill}/output"]), rtol=0, atol=1e-12)


def test_a_new_layer_is_a_box_filter_between_its_projections():
    layer = DCNv3(8, groups=2)
    x = torch.randn(2, 5, 6, 8)
    value = layer.input_proj(x).permute(0, 3, 1, 2)
    expected = layer.output_proj(torch.nn.functional.avg_pool2d(value, 3, 1, 1).permute(0, 2, 3, 1))
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_every_parameter_learns():
    layer = build_layer("hg", 0.2).float()
    layer(torch.randn(2, 7, 6, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_groups_and_kernels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="16 channels do not divide by 3 groups"):
        DCNv3(16, groups=3)
    with pytest.raises(ValueError, match="kernel_size 4 and dw_kernel_size 4 must be odd"):
        DCNv3(16, groups=2, kernel_size=4)
