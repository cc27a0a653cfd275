"""Mask and Cascade Mask R-CNN on a tiny InternImage against mmdetection's own classes, from the image to the masks."""

import gzip
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from filled import value
from pycocotools import mask as rle
from test_internimage import golden as internimage_golden
from test_internimage import spec_of
from torchvision.models.detection.image_list import ImageList

from piip.counting.cost import cost
from piip.counting.meta import on_meta
from piip.data.masks import results_of
from piip.data.samples import ImageInfo
from piip.models import build_model
from piip.presets import INTERNIMAGE, INTERNIMAGE_CASCADE
from piip.spec import CascadeMaskRCNNSpec, DINOSpec, MaskRCNNSpec, ModelSpec
from piip.weights.names.mmdet import fit_weights
from piip.weights.read import Weights

GOLDEN = Path(__file__).parents[1] / "golden"
SIZE, SCALE, FILE_SIZE = (120, 150), 2.0, (60, 75)
SMALL = {
    "num_classes": 5, "fpn_channels": 32, "box_channels": 64, "mask_channels": 32, "rpn_post_nms": 60, "max_detections": 20,
}  # fmt: skip
HEADS = {"mask": MaskRCNNSpec(**SMALL), "cascade": INTERNIMAGE_CASCADE.override(SMALL)}


@cache
def said(kind: str) -> dict:
    """Configuration, and how the golden network is filled."""
    return json.loads(gzip.decompress((GOLDEN / "rcnn_tiny.json.gz").read_bytes()))[kind]


@cache
def wanted(kind: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "rcnn_tiny.npz") as arrays:
        return {n.split("/")[1]: torch.from_numpy(arrays[n]) for n in arrays if n.startswith(f"{kind}/")}


def official(kind: str) -> dict[str, torch.Tensor]:
    """The tensors of the mmdetection network."""
    document, tensors = said(kind), {}
    for key, (shape, role) in document["keys"].items():
        one = role == "norm_weight" or key.rsplit(".", 1)[-1].startswith("gamma")
        if role != "counter":
            numbers = value(key, shape, scale=0.06, around_one=one, variance=role == "running_var")
            for part, factor in document["weight_multipliers"].items():
                numbers = numbers * (factor if part in key and key.endswith(".weight") else 1)
            tensors[key] = numbers.float() * (key not in document["zeroed"])
    assert document["zeroed"] == ["rpn_cls.bias"]
    tensors["rpn_head.rpn_cls.bias"].zero_()
    return tensors | {key: torch.tensor(bias) for key, bias in document["bias_overrides"].items()}


@cache
def network(kind: str):
    """Ours with the official tensors: every one fits, none is left over."""
    spec = ModelSpec(backbone=spec_of(said(kind)["config"]["backbone"]), head=HEADS[kind])
    model = build_model(spec, pretrained=False)
    fitted, report = fit_weights(Weights(official(kind), "golden"), model, spec)
    report.require(())
    model.load_state_dict(fitted, strict=False)
    return model.eval()


def image() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 128, 160))).float()


@pytest.mark.parametrize("kind", HEADS)
@torch.no_grad()
def test_proposals_and_first_stage(kind):
    model, golden = network(kind), wanted(kind)

    pyramid = model.head.pyramid(model.backbone(image()))
    logits, deltas = model.head.rpn.head(list(pyramid.values()))
    (proposals,), _ = model.head.rpn(ImageList(image(), [SIZE]), pyramid)

    for level, feature in enumerate(pyramid.values()):
        torch.testing.assert_close(feature[:, :8], golden[f"fpn{level}"], atol=1e-4, rtol=0)
        torch.testing.assert_close(logits[level], golden[f"rpn_cls{level}"], atol=1e-4, rtol=0)
        torch.testing.assert_close(deltas[level], golden[f"rpn_reg{level}"], atol=1e-4, rtol=0)
    torch.testing.assert_close(proposals, golden["proposals"][:, :4], atol=1e-3, rtol=0)
    roi = model.head.roi_heads
    first = roi.stages[0] if kind == "cascade" else roi
    classes, boxes = first.boxes(list(pyramid.values())[:4], [golden["proposals"][:, :4]])
    torch.testing.assert_close(classes[:, [1, 2, 3, 4, 5, 0]], golden["stage0_cls"], atol=1e-4, rtol=0)
    torch.testing.assert_close(boxes[:, 4:], golden["stage0_reg"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", HEADS)
@torch.no_grad()
def test_detections_and_masks(kind):
    golden = wanted(kind)
    info = ImageInfo(1, "a.jpg", *FILE_SIZE, scale=(SCALE, SCALE))

    (prediction,) = network(kind)(image(), [SIZE])
    found = results_of(prediction, info, [{"id": number} for number in range(5)])

    assert len(found) == 20
    for number in range(5):
        rows = golden[f"det_class{number}"]
        ours = [one for one in found if one["category_id"] == number]
        boxes = torch.tensor([one["bbox"] for one in ours]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        torch.testing.assert_close(boxes.float(), rows[:, :4], atol=1e-3, rtol=0)
        torch.testing.assert_close(torch.tensor([one["score"] for one in ours]), rows[:, 4], atol=1e-4, rtol=0)
        bits = np.unpackbits(golden[f"mask_class{number}"].numpy())[: len(rows) * FILE_SIZE[0] * FILE_SIZE[1]]
        masks = bits.reshape(len(rows), *FILE_SIZE)
        for one, mask in zip(ours, masks, strict=True):
            assert (rle.decode(one["segmentation"]) != mask).sum() <= 2  # of 4500 pixels: those at one half


@pytest.mark.parametrize("name", internimage_golden()["detectors"])
def test_official_detectors_fit_without_a_tensor_left_over(name):
    size, kind = name.partition("internimage_")[2].split("_")[0].upper(), name.split("_")[0]
    head = {"cascade": INTERNIMAGE_CASCADE, "mask": MaskRCNNSpec(), "dino": DINOSpec()}[kind]
    spec = ModelSpec(backbone=INTERNIMAGE[size], head=head)
    detector = internimage_golden()["detectors"][name]
    shapes = {f"backbone.{n}": shape for n, (shape, _) in internimage_golden()["full"][size]["keys"].items()}
    with on_meta():
        model = build_model(spec)
        file = {n: torch.empty(shape) for n, shape in (shapes | detector["keys_without_backbone"]).items()}

    fitted, report = fit_weights(Weights(file, name), model, spec)

    report.require(())
    assert fitted.keys() == model.state_dict().keys()
    # ours have a row for the background in boxes (one of five numbers and a bias each) and masks
    heads = {"cascade": 3, "mask": 1, "dino": 0}[kind]
    unused = heads * (4 * 1025 + 257)
    assert sum(p.numel() for p in model.parameters()) == detector["params"] + unused


@pytest.mark.parametrize(("size", "head"), [("T", MaskRCNNSpec()), ("L", INTERNIMAGE_CASCADE)])
def test_multiply_adds_of_whole_detectors(size, head):
    golden = internimage_golden()["flops"][size]

    counted = cost(ModelSpec(backbone=INTERNIMAGE[size], head=head), 800, 1280)

    # of 1000 boxes and 100 masks; ours compute a row for the background too, in boxes and in masks of 28 x 28
    heads = 3 if isinstance(head, CascadeMaskRCNNSpec) else 1
    unused = heads * (1000 * 4 * 1024 + 100 * 28 * 28 * 256) / 1e9
    assert counted.gflops - unused == pytest.approx(golden["mac_total_G"] + golden["dcnv3_addon_G"], rel=1e-6)
