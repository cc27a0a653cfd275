"""Files of MPViT: its pretraining's and its detectors' names, what layers share, the MLP ratio that a file tells."""

import json
import lzma
from functools import cache
from pathlib import Path

import pytest
import torch

from piip.counting.meta import on_meta
from piip.models import build_model
from piip.presets import MPVIT
from piip.spec import ClassifierSpec, MaskRCNNSpec, ModelSpec, MPViTSpec, RetinaNetSpec
from piip.weights.names.detectron2 import as_in_file, official_name
from piip.weights.names.mmdet import fit_weights
from piip.weights.names.mpvit import mlp_ratio_of, without_aliases
from piip.weights.names.mpvit import official_name as in_body
from piip.weights.read import Weights, WeightsError

TINY = MPViTSpec(resolution=64, channels=(16, 16, 16, 16), paths=(1, 1, 1, 1), depths=(1, 1, 2, 1))
HEADS = {
    "mask_rcnn": MaskRCNNSpec(num_classes=2, fpn_channels=8, box_channels=8, mask_channels=8),
    "retinanet": RetinaNetSpec(num_classes=2, fpn_channels=8),
}
BODY = "backbone.bottom_up.backbone."
SHARED = "mhca_stages.2.mhca_blks.0."


@cache
def golden() -> dict:
    return json.loads(lzma.decompress((Path(__file__).parents[1] / "golden" / "mpvit.json.xz").read_bytes()))


@pytest.mark.parametrize("size", ["T", "XS", "S", "B"])
def test_the_pretrainings_files_have_a_place_for_every_tensor(size):
    names = golden()["full"][size]
    shapes = names["keys"] | {alias: names["keys"][first] for alias, first in names["aliases"].items()}
    spec = ModelSpec(backbone=MPVIT[size], head=ClassifierSpec(reads="map"))
    with on_meta():
        model = build_model(spec)
        file = {name: torch.empty(shape) for name, shape in {**shapes, **names["classifier"]}.items()}

    _, report = fit_weights(Weights(file, "official"), model, spec)

    report.require(())
    assert len(report.matched) == len(names["keys"]) + 2  # the classifier's
    assert not report.anew
    assert not report.ignored


def detector(head: str, prefix: str = "") -> tuple[ModelSpec, dict[str, torch.Tensor], torch.nn.Module]:
    """A detector with random weights, and a file of them as detectron2 writes it."""
    spec = ModelSpec(backbone=TINY, head=HEADS[head])
    torch.manual_seed(0)
    model = build_model(spec)
    file = {"pixel_mean": torch.zeros(3, 1, 1)}
    for name, value in model.state_dict().items():
        if name.startswith("backbone."):
            file[BODY + in_body(name.removeprefix("backbone."))] = value
        elif name != "head.normaliser":
            file[official_name(name, spec.head)] = with_background_last(name, value)
    for layer in range(2):
        for part in ("cpe.proj.weight", "crpe.conv_list.1.bias"):
            for between in ("", "factoratt_crpe.") if "crpe" in part else ("",):
                file[f"{BODY}{SHARED}MHCA_layers.{layer}.{between}{part}"] = file[f"{BODY}{SHARED}{part}"]
    return spec, {prefix + name: value for name, value in file.items()}, model


def with_background_last(name: str, value: torch.Tensor) -> torch.Tensor:
    if "cls_score" in name:
        return value.roll(-1, 0)
    if "bbox_pred" in name and "box_predictor" in name:
        return value[4:]
    return value[1:] if "mask_fcn_logits" in name else value


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("head", HEADS)
def test_a_detectors_file_fits_whatever_stands_before_its_names(head, prefix):
    spec, file, model = detector(head, prefix)

    fitted, report = fit_weights(Weights(file, "official"), model, spec)

    report.require(())
    assert report.ignored == {"pixel_mean": "computed, not learned"}
    assert list(report.anew) == (["head.normaliser"] if head == "retinanet" else [])
    for name, value in fitted.items():
        wanted = model.state_dict()[name].clone()
        if rows := 4 if "box_predictor.bbox_pred" in name else 1 if "mask_fcn_logits" in name else 0:
            wanted[:rows] = 0  # of the background, which nothing reads
        assert torch.equal(value, wanted)


@pytest.mark.parametrize(
    ("head", "ours", "theirs"),
    [
        ("mask_rcnn", "neck.inner_blocks.0.0.bias", "backbone.fpn_lateral2.bias"),
        ("retinanet", "neck.layer_blocks.2.0.weight", "backbone.fpn_output5.weight"),
        ("retinanet", "neck.extra_blocks.p6.weight", "backbone.top_block.p6.weight"),
        ("retinanet", "head.regression_head.conv.3.0.weight", "head.bbox_subnet.6.weight"),
        ("mask_rcnn", "rpn.head.bbox_pred.bias", "proposal_generator.rpn_head.anchor_deltas.bias"),
        ("mask_rcnn", "roi_heads.mask_head.0.0.weight", "roi_heads.mask_head.mask_fcn1.weight"),
    ],
)
def test_names_of_heads_are_detectron2s(head, ours, theirs):
    assert official_name(f"head.{ours}", HEADS[head]) == theirs


def test_a_pretraining_starts_a_detector_whose_head_is_new():
    spec, file, model = detector("retinanet")
    pretraining = {name.removeprefix(BODY): value for name, value in file.items() if name.startswith(BODY)}
    classifier = {"cls_head.cls.weight": torch.zeros(1000, 16)}

    _, report = fit_weights(Weights(pretraining | classifier, "official"), model, spec)

    assert report.ignored == {"cls_head.cls.weight": "ImageNet's classifier"}
    assert all(name.startswith("head.") for name in report.missing)
    assert {name for name in model.state_dict() if name.startswith("backbone.")} == set(report.matched)


def test_what_layers_share_may_stand_once_under_any_name_but_not_differ():
    _, file, _ = detector("retinanet")
    alias, first = f"{BODY}{SHARED}MHCA_layers.1.cpe.proj.weight", f"{BODY}{SHARED}cpe.proj.weight"

    assert alias not in without_aliases(file)
    once = without_aliases({name: value for name, value in file.items() if name != first})
    assert once[first] is file[f"{BODY}{SHARED}MHCA_layers.0.cpe.proj.weight"]
    with pytest.raises(
        WeightsError, match=r"MHCA_layers\.1\.cpe\.proj\.weight differs from .*share these convolutions"
    ):
        without_aliases(file | {alias: file[alias] + 1})


def test_the_mlp_ratio_is_the_files():
    spec, file, model = detector("retinanet")
    row = spec.override({"backbone.mlp_ratio": 4})
    with on_meta():
        wider = build_model(row)

    weights, told = as_in_file(Weights(file, "official"), row)

    assert mlp_ratio_of(file) == 2
    assert told == spec
    assert weights.notes == ["model.backbone.mlp_ratio is 2, as in the file; 4 in the row"]
    assert as_in_file(Weights(dict(model.state_dict()), "ours"), row)[1] == row
    with pytest.raises(
        WeightsError, match=r"have 2 times the channels, this network's 4\. Set model\.backbone\.mlp_ratio=2"
    ):
        fit_weights(Weights(file, "official"), wider, row)


@pytest.mark.parametrize("file", [{"conv1.weight": torch.zeros(1)}, {}])
def test_a_file_of_another_network_says_so(file):
    spec, _, model = detector("retinanet")

    with pytest.raises(WeightsError, match=r"no weights of an MPViT: one name that ends in 'stem\.0\.conv\.weight'"):
        fit_weights(Weights(file, "resnet.pth"), model, spec)


def test_our_own_checkpoint_is_not_taken_for_an_official_file():
    spec, _, model = detector("mask_rcnn")

    _, report = fit_weights(Weights(dict(model.state_dict()), "ours"), model, spec)

    report.require(())
    assert len(report.matched) == len(model.state_dict())


@pytest.mark.parametrize("size", MPVIT)
def test_detectors_have_the_official_number_of_parameters(size):
    wanted = golden()["cost"][size]
    with on_meta():
        one, two = (
            sum(p.numel() for p in build_model(ModelSpec(backbone=MPVIT[size], head=head)).parameters())
            for head in (RetinaNetSpec(), MaskRCNNSpec())
        )

    assert one == wanted["retina"]["params"]
    # four boxes' numbers and a mask of the background, which nothing reads
    assert two - (4 * (1024 + 1) + (256 + 1)) == wanted["mask"]["params"]
