"""A network of float64 computes in float64: what a network of float32 does, to float32's rounding."""

import pytest
import torch
from torch import nn

from piip.models import build_model
from piip.models.meeting.interaction import DeformableCrossAttention
from piip.models.precision import at_least_fp32
from piip.ops.mask_runs import runs_of
from piip.presets import mask_rcnn_pico, pico

INTERACTIONS = {
    "released": {},
    "faster": {"projection": False, "norms": False},
    "dense": {"attention": "dense"},
    "without_ffn": {"ffn": False},
}


def network(**interaction):
    backbone = pico("TSB", (128, 96, 64), pretrained=False)
    backbone = backbone.override({f"interaction.{name}": value for name, value in interaction.items()})
    torch.manual_seed(0)
    model = build_model(mask_rcnn_pico(backbone, steps=3).model)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma") and "interactions" in name:
            nn.init.constant_(parameter, 0.5)
    return model.eval()


@pytest.mark.parametrize("fp32", [False, True])
@pytest.mark.parametrize("form", INTERACTIONS)
def test_maps_of_a_network_in_float64_are_those_in_float32(form, fp32):
    model = network(**INTERACTIONS[form])
    for module in model.modules():
        if isinstance(module, DeformableCrossAttention):
            module.fp32 = fp32
    images = torch.rand(1, 3, 104, 128, generator=torch.Generator().manual_seed(1))

    with torch.no_grad():
        single, double = model.backbone(images), model.double().backbone(images.double())

    assert {feature.dtype for feature in double} == {torch.float64}
    torch.testing.assert_close(single, [feature.float() for feature in double], atol=1e-4, rtol=0)
    assert any((one.double() - other).abs().max() > 1e-8 for one, other in zip(single, double, strict=True))


def test_predictions_of_a_network_in_float64_are_those_in_float32():
    model, images = network(), torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))

    with torch.no_grad():
        single, double = model(images)[0], model.double()(images.double())[0]

    assert double["scores"].dtype == double["boxes"].dtype == torch.float64
    torch.testing.assert_close(single["scores"][:10], double["scores"][:10].float(), atol=1e-5, rtol=0)


def test_a_network_in_float64_learns():
    model = network().double().train()
    target = {"boxes": torch.tensor([[8.0, 8, 60, 70]], dtype=torch.float64), "labels": torch.tensor([1])}
    target["mask_runs"] = runs_of(torch.ones(1, 128, 128))

    losses = model(torch.rand(1, 3, 128, 128).double(), None, [target])
    sum(losses.values()).backward()

    assert all(loss.isfinite() for loss in losses.values())
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float64}


def test_half_precision_becomes_fp32_and_float64_stays():
    given = [torch.zeros(1, dtype=dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)]

    assert [at_least_fp32(t).dtype for t in given] == [torch.float32, torch.float32, torch.float32, torch.float64]
