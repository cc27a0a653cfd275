"""Official DINO files: every tensor under mmdetection's name, in its shape, in the data's order of classes."""

import json
from pathlib import Path

import pytest
import torch

from piip.counting.meta import on_meta
from piip.models import build_model
from piip.models.heads.dino.head import DINO
from piip.presets import pico
from piip.spec import DINOSpec, ModelSpec
from piip.weights.names.dino import official_name as head_name
from piip.weights.names.dino import split
from piip.weights.names.mmdet import fit_weights, official_name, without_classes
from piip.weights.read import Weights, WeightsError

SHAPES = json.loads((Path(__file__).parents[1] / "golden" / "dino_shapes.json").read_text())
"""Neck and head of dino_4scale_internimage_t_1x_coco, built by the official code (maps of 128, 256 and 512 channels)."""
SPEC = ModelSpec(
    backbone=pico("TB", (64, 32), pretrained=False),
    head=DINOSpec(
        num_classes=3,
        num_queries=20,
        embed_dim=32,
        norm_groups=8,
        encoder_layers=1,
        decoder_layers=2,
        ffn_dim=32,
        max_detections=9,
    ),
)
CLASSES = ("ant", "bee", "cat")


def test_names_and_shapes_of_the_full_head_are_the_official_codes():
    with on_meta():
        head = DINO((128, 256, 512), DINOSpec())

    ours = {head_name(f"head.{name}", DINOSpec()): p.shape for name, p in head.named_parameters()}

    theirs = split({name: torch.empty(shape, device="meta") for name, shape in SHAPES.items()})
    assert ours == {name: tensor.shape for name, tensor in theirs.items()}
    count = {part: sum(p.numel() for p in getattr(head, part).parameters()) for part, _ in head.named_children()}
    assert count.pop("neck") == 1_411_072
    assert sum(count.values()) == 18_556_236


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2)
    model = build_model(SPEC).eval()
    with torch.no_grad():
        for name, parameter in model.head.named_parameters():
            parameter.add_(
                0.3 * torch.randn(parameter.shape) if "classes" in name else 0.1 * torch.rand(parameter.shape)
            )
    return model


@pytest.fixture
def official(model):
    """As a file has it, the decoder's three projections in one matrix."""
    tensors = {official_name(name, SPEC): tensor for name, tensor in model.state_dict().items()}
    for name in [name for name in tensors if ".query_key." in name]:
        parts = tensors.pop(name), tensors.pop(name.replace("query_key", "value"))
        tensors[name.replace("query_key.", "in_proj_")] = torch.cat(parts)
    return tensors


def detections(model):
    with torch.no_grad():
        return model(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))[0]


def loaded(weights, classes=CLASSES):
    fresh = build_model(SPEC).eval()
    fitted, report = fit_weights(weights, fresh, SPEC, classes)
    report.require(())
    fresh.load_state_dict(fitted)
    return fresh


def test_an_official_file_finds_what_it_found(official, model):
    ours, theirs = detections(loaded(Weights(official, "released"))), detections(model)

    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_classes_in_another_order_are_put_in_the_datas(official, model):
    fresh = loaded(Weights(official, "released", classes=("cat", "ant", "bee")))

    ours, theirs = detections(fresh), detections(model)
    torch.testing.assert_close(ours["boxes"], theirs["boxes"])
    assert ours["labels"].tolist() == [{1: 3, 2: 1, 3: 2}[label] for label in theirs["labels"].tolist()]
    assert len(ours["labels"].unique()) > 1
    order = [1, 2, 0]
    assert torch.equal(fresh.head.decoder.labels.weight, model.head.decoder.labels.weight[order])
    with pytest.raises(WeightsError, match="first difference"):
        loaded(Weights(official, "released", classes=("cat", "ant", "bee")), ("ant", "bee", "cow"))


def test_what_is_left_for_other_classes_has_no_row_of_a_class(official, model):
    for tensors, of_classes in (
        (official, ("bbox_head.cls_branches.", "bbox_head.label_embedding.")),
        (model.state_dict(), ("head.selection.classes.", "head.decoder.classes.", "head.decoder.labels.")),
    ):
        left = without_classes(Weights(tensors, "released")).tensors
        # a layer of the proposals, two of the decoder, weight and bias each; one embedding
        assert len(tensors.keys() - left.keys()) == 7
        assert all(name.startswith(of_classes) for name in tensors.keys() - left.keys())


def test_a_tensor_of_another_head_is_told():
    with pytest.raises(ValueError, match=r"'head.rpn.x' is no parameter of a DINO"):
        head_name("head.rpn.x", DINOSpec())
