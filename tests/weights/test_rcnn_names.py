"""mmdetection's names of two-stage detectors, and its rows of classes: the background is its last, and boxes and masks have none."""

import pytest
import torch

from piip.counting.meta import on_meta
from piip.models import build_model
from piip.presets import INTERNIMAGE, INTERNIMAGE_CASCADE
from piip.spec import CascadeMaskRCNNSpec, CNNSpec, MaskRCNNSpec, ModelSpec, RetinaNetSpec
from piip.weights.names.mmdet import fit_weights, without_classes
from piip.weights.names.rcnn import background_first, in_order, official_name
from piip.weights.read import Weights

PLAIN = CascadeMaskRCNNSpec(num_classes=2)


def rows(*numbers):
    return torch.tensor(numbers, dtype=torch.float32)[:, None]


FILE = {
    "roi_head.bbox_head.1.fc_cls.weight": rows(1, 2, 0),
    "roi_head.bbox_head.1.fc_reg.weight": rows(1, 1, 1, 1, 2, 2, 2, 2),
    "roi_head.mask_head.1.conv_logits.bias": rows(1, 2),
    "rpn_head.rpn_reg.bias": rows(7, 8),
}


@pytest.mark.parametrize(
    ("ours", "official"),
    [
        ("stages.1.box_head.fc6.weight", "bbox_head.1.shared_fcs.0.weight"),
        ("box_head.fc7.bias", "bbox_head.shared_fcs.1.bias"),
        ("stages.0.box_head.3.0.weight", "bbox_head.0.shared_convs.3.conv.weight"),
        ("stages.2.box_head.0.1.running_var", "bbox_head.2.shared_convs.0.bn.running_var"),
        ("stages.2.box_head.5.bias", "bbox_head.2.shared_fcs.0.bias"),
        ("stages.1.mask_predictor.conv5_mask.weight", "mask_head.1.upsample.weight"),
    ],
)
def test_stages_are_in_front_of_a_heads_parts(ours, official):
    assert official_name(f"head.roi_heads.{ours}") == f"roi_head.{official}"


def test_what_is_no_detectors_has_no_name():
    with pytest.raises(ValueError, match=r"'head\.roi_heads\.x\.weight' is no tensor of a two-stage detector"):
        official_name("head.roi_heads.x.weight")


def test_the_background_comes_first_in_every_stage():
    ours = background_first(FILE, INTERNIMAGE_CASCADE)

    assert {name: value.flatten().tolist() for name, value in ours.items()} == {
        "roi_head.bbox_head.1.fc_cls.weight": [0, 1, 2],
        "roi_head.bbox_head.1.fc_reg.weight": [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2],
        "roi_head.mask_head.1.conv_logits.bias": [0, 1, 2],
        "rpn_head.rpn_reg.bias": [7, 8],
    }


def test_classes_change_places_and_the_background_does_not():
    turned = in_order(FILE, [1, 0], INTERNIMAGE_CASCADE)

    assert turned["roi_head.bbox_head.1.fc_cls.weight"].flatten().tolist() == [2, 1, 0]
    assert turned["roi_head.bbox_head.1.fc_reg.weight"].flatten().tolist() == [2, 2, 2, 2, 1, 1, 1, 1]
    assert turned["roi_head.mask_head.1.conv_logits.bias"].flatten().tolist() == [2, 1]


def test_a_box_of_all_classes_has_no_rows_of_classes():
    file = {"roi_head.bbox_head.0.fc_reg.weight": rows(1, 2, 3, 4)}

    assert (
        background_first(file, PLAIN)["roi_head.bbox_head.0.fc_reg.weight"]
        is file["roi_head.bbox_head.0.fc_reg.weight"]
    )
    assert in_order(file, [1, 0], PLAIN) == file


def test_without_classes_keeps_what_is_not_theirs():
    ours = {"head.roi_heads.stages.0.box_predictor.cls_score.bias": rows(1), "head.rpn.head.cls_logits.bias": rows(2)}

    assert list(without_classes(Weights(FILE | ours, "x")).tensors) == [
        "rpn_head.rpn_reg.bias",
        "head.rpn.head.cls_logits.bias",
    ]


def test_a_plain_cascade_has_a_place_for_every_official_tensor():
    with on_meta():
        model = build_model(ModelSpec(backbone=INTERNIMAGE["T"], head=PLAIN))

    names = [official_name(name) for name in model.state_dict() if name.startswith("head.")]

    assert len(set(names)) == len(names)
    assert {f"roi_head.bbox_head.{i}.shared_fcs.{k}.weight" for i in range(3) for k in range(2)} <= set(names)


def test_a_checkpoint_of_ours_with_internimage_is_not_taken_for_an_official_file():
    spec = ModelSpec(backbone=INTERNIMAGE["T"], head=MaskRCNNSpec(num_classes=2))
    with on_meta():
        model = build_model(spec)

    fitted, report = fit_weights(Weights(dict(model.state_dict()), "ours"), model, spec)

    report.require(())
    assert fitted.keys() == model.state_dict().keys()


def test_a_head_without_official_files_starts_anew_beside_an_official_backbone():
    spec = ModelSpec(backbone=INTERNIMAGE["T"], head=RetinaNetSpec(num_classes=2))
    with on_meta():
        model = build_model(spec)
        backbone = {name: p for name, p in model.state_dict().items() if name.startswith("backbone.")}

        _, report = fit_weights(Weights(backbone | {"rpn_head.rpn_cls.bias": torch.empty(3)}, "official"), model, spec)

    assert set(report.matched) == set(backbone)
    assert all(name.startswith("head.") for name in report.missing)
    assert list(report.unexplained) == ["rpn_head.rpn_cls.bias"]


def test_a_backbone_without_official_files_is_refused():
    spec = ModelSpec(backbone=CNNSpec(arch="resnet18", resolution=64), head=MaskRCNNSpec(num_classes=2))
    with on_meta(), pytest.raises(ValueError, match="official files are of PIIP, InternImage and MPViT; this is a cnn"):
        fit_weights(Weights(FILE, "x"), build_model(spec, pretrained=False), spec)
