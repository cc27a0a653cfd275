import json
from pathlib import Path

import numpy as np
import pytest
import torch

from piip.ops.dcnv3 import dcnv3

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "dcnv3_op.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_official_numbers(kernel, case):
    """Output and gradients of InternImage's operator in float64: strides, dilations, kernels, far offsets."""
    said = CASES[case]
    golden = {
        key.split("/")[1]: torch.from_numpy(array)
        for key, array in np.load(GOLDEN / "dcnv3_op.npz").items()
        if key.startswith(f"{case}/")
    }
    tensors = [golden[name].requires_grad_() for name in ("input", "offset", "mask")]
    geometry = {"kernel_size": said["kernel"], "remove_center": bool(said["remove_center"])}
    geometry |= {name: said[name] for name in ("stride", "pad", "dilation", "offset_scale")}

    out = dcnv3(*tensors, groups=said["group"], kernel=kernel, **geometry)
    gradients = torch.autograd.grad(out, tensors, golden["grad_out"])

    expected = [golden[name] for name in ("output", "grad_input", "grad_offset", "grad_mask")]
    for actual, wanted in zip((out, *gradients), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-12)


def test_official_numbers_without_the_centre(kernel):
    golden = {name: torch.from_numpy(array) for name, array in np.load(GOLDEN / "dcnv3_remove_center.npz").items()}
    out = dcnv3(golden["input"], golden["offset"], golden["mask"], groups=2, remove_center=True, kernel=kernel)
    torch.testing.assert_close(out, golden["output"], rtol=0, atol=1e-12)


def test_without_offsets_it_is_a_box_filter(kernel):
    """Zero offsets and equal masks, as at initialisation: the mean of 3 x 3 pixels, with zeros around the map."""
    value = torch.randn(1, 5, 6, 8)
    out = dcnv3(value, torch.zeros(1, 5, 6, 36), torch.full((1, 5, 6, 18), 1 / 9), groups=2, kernel=kernel)
    expected = torch.nn.functional.avg_pool2d(value.permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)


def test_wrong_shapes_are_refused_in_words():
    value, offsets, mask = torch.rand(1, 5, 6, 8), torch.rand(1, 5, 6, 36), torch.rand(1, 5, 6, 18)
    with pytest.raises(ValueError, match="C a multiple of groups 3"):
        dcnv3(value, offsets, mask, groups=3)
    with pytest.raises(ValueError, match=r"offsets must be \(1, 3, 3, 36\)"):
        dcnv3(value, offsets, mask, groups=2, stride=2)
    with pytest.raises(ValueError, match=r"mask must be \(1, 5, 6, 18\)"):
        dcnv3(value, offsets, mask[..., :9], groups=2)
    with pytest.raises(ValueError, match="smaller than the kernel"):
        dcnv3(value, offsets, mask, groups=2, dilation=4)
    with pytest.raises(ValueError, match="stride, dilation and groups must be at least 1"):
        dcnv3(value, offsets, mask, groups=2, stride=0)
