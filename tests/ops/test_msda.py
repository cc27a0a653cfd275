from pathlib import Path

import numpy as np
import pytest
import torch

from piip.ops.deform_attn import deform_attn
from piip.ops.msda import msda

GOLDEN = Path(__file__).parents[1] / "golden" / "ops_deform_attn.npz"


def test_official_numbers(kernel):
    """Outputs and gradients of the official sampling function of PIIP and Deformable DETR."""
    golden = {name: torch.from_numpy(array) for name, array in np.load(GOLDEN).items()}
    value = golden["value"].requires_grad_()
    locations = golden["locations"][:, :, :, None].requires_grad_()
    weights = golden["logits"].softmax(-1)[:, :, :, None].requires_grad_()

    out = msda(value, [(5, 7)], locations, weights, kernel=kernel)
    gradients = torch.autograd.grad(out.square().sum(), (value, locations, weights))

    torch.testing.assert_close(out, golden["out"], rtol=1e-4, atol=1e-5)
    for gradient, name in zip(gradients, ("grad_value", "grad_locations", "grad_weights"), strict=True):
        expected = golden[name].view_as(gradient)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=2e-5 * expected.abs().max().item())


def test_levels_add_up(kernel):
    """A pyramid is the sum of its levels, each sampled alone by deform_attn."""
    torch.manual_seed(0)
    shapes, query_hw = [(6, 8), (3, 4), (2, 2)], (3, 5)
    values = [torch.randn(2, rows * columns, 3, 6).double() for rows, columns in shapes]
    offsets, logits = torch.randn(3, 2, 15, 3, 4, 2).double(), torch.randn(3, 2, 15, 3, 4).double()
    rows, columns = torch.meshgrid(torch.arange(3).double(), torch.arange(5).double(), indexing="ij")
    centres = torch.stack([(columns + 0.5) / 5, (rows + 0.5) / 3], -1).view(1, 15, 1, 1, 2)
    locations = [centres + offsets[i] / torch.tensor([w, h]) for i, (h, w) in enumerate(shapes)]

    out = msda(torch.cat(values, 1), shapes, torch.stack(locations, 3), logits.softmax(-1).movedim(0, 3), kernel=kernel)

    alone = [deform_attn(values[i], offsets[i], logits[i], shapes[i], query_hw, kernel=kernel) for i in range(3)]
    torch.testing.assert_close(out, sum(alone), rtol=0, atol=1e-12)


def test_wrong_shapes_are_refused_in_words():
    value, locations, weights = torch.rand(2, 35, 3, 6), torch.rand(2, 4, 3, 1, 2, 2), torch.rand(2, 4, 3, 1, 2)
    with pytest.raises(ValueError, match=r"value has 35 pixels, spatial_shapes \[\(5, 8\)\] ask for 40"):
        msda(value, [(5, 8)], locations, weights)
    with pytest.raises(ValueError, match=r"sampling_locations must be \(2, 4, 3, 2, 2, 2\)"):
        msda(value, [(5, 6), (5, 1)], locations, weights)
    with pytest.raises(ValueError, match=r"attention_weights must be \(2, 4, 3, 1, 2\)"):
        msda(value, [(5, 7)], locations, weights[:1])
    with pytest.raises(ValueError, match="one point per head and level"):
        msda(value, [(5, 7)], locations[..., :0, :], weights[..., :0])
