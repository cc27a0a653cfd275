"""Official segmenters: every tensor of an UperNet under mmsegmentation's name, in its shape."""

import pytest
import torch

from piip.counting.meta import on_meta
from piip.data.formats.ade20k_classes import ADE20K
from piip.models import build_model
from piip.presets import pico, upernet_pico
from piip.weights.names.mmdet import fit_weights, official_name, without_classes
from piip.weights.names.mmseg import official_name as head_name
from piip.weights.read import Weights, WeightsError, read_file

SPEC = upernet_pico(pico("TB", (96, 64), pretrained=False), steps=1).override({"model.head.num_classes": 3}).model
CLASSES = ("wall", "bed", "sky")


def conv_module(name, out, given, side):
    """mmcv's ConvModule with BatchNorm."""
    norm = {
        f"{name}.bn.{leaf}": (out,)
        for leaf in ("weight", "bias", "running_mean", "running_var")
    }  # fmt: skip
    return {f"{name}.conv.weight": (out, given, side, side), **norm, f"{name}.bn.num_batches_tracked": ()}


def mmsegmentations(channels, width, classes):
    """UPerHead on maps of `channels` each, FCNHead beside it, as their definitions name their tensors."""
    shapes = {"decode_head.conv_seg.weight": (classes, width, 1, 1), "decode_head.conv_seg.bias": (classes,)}
    for i in range(4):
        shapes |= conv_module(f"decode_head.psp_modules.{i}.1", width, channels, 1)
    shapes |= conv_module("decode_head.bottleneck", width, channels + 4 * width, 3)
    for i in range(3):
        shapes |= conv_module(f"decode_head.lateral_convs.{i}", width, channels, 1)
        shapes |= conv_module(f"decode_head.fpn_convs.{i}", width, width, 3)
    shapes |= conv_module("decode_head.fpn_bottleneck", width, 4 * width, 3)
    shapes |= {"auxiliary_head.conv_seg.weight": (classes, width, 1, 1), "auxiliary_head.conv_seg.bias": (classes,)}
    return shapes | conv_module("auxiliary_head.convs.0", width, channels, 3)


def test_the_heads_tensors_are_mmsegmentations():
    with on_meta():
        model = build_model(SPEC)

    ours = {
        head_name(name): tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if name.startswith("head.")
    }  # fmt: skip

    assert ours == mmsegmentations(model.backbone.out_channels[0], 64, 3)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2)
    model = build_model(SPEC).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.02 * torch.rand(tensor.shape))  # statistics and scales that are not 0 and 1
    return model


@pytest.fixture
def official(model):
    return {official_name(name, SPEC): tensor for name, tensor in model.state_dict().items()}


def logits(model):
    with torch.no_grad():
        return model(torch.rand(1, 3, 96, 120, generator=torch.Generator().manual_seed(1)))[0]["logits"]


def loaded(weights, classes=CLASSES):
    fresh = build_model(SPEC).eval()
    fitted, report = fit_weights(weights, fresh, SPEC, classes)
    report.require(())
    fresh.load_state_dict(fitted, strict=False)
    return fresh, report


@pytest.mark.parametrize("counts", [True, False])
def test_an_official_file_computes_what_it_computed(official, model, counts):
    tensors = {name: t for name, t in official.items() if counts or not name.endswith("num_batches_tracked")}

    fresh, report = loaded(Weights(tensors, "released"))

    assert torch.equal(logits(fresh), logits(model))
    assert not report.missing
    assert not report.unexplained
    assert len(report.anew) == (0 if counts else 13)


def test_classes_in_another_order_are_put_in_the_datas(official, model):
    weights = Weights(official, "released", classes=("sky", "wall", "bed"))

    fresh, _ = loaded(weights)

    torch.testing.assert_close(logits(fresh), logits(model)[[1, 2, 0]])
    with pytest.raises(WeightsError, match="first difference"):
        loaded(weights, ("wall", "bed", "sea"))


def test_what_is_left_for_other_classes_has_no_row_of_a_class(official):
    left = without_classes(Weights(official, "released"))

    gone = {name for name in official if name not in left.tensors}
    assert gone == {
        f"{head}.conv_seg.{leaf}" for head in ("decode_head", "auxiliary_head") for leaf in ("weight", "bias")
    }


def test_released_class_names_are_the_lists(tmp_path):
    # mmsegmentation's list has a space behind "bed"
    names = tuple("bed " if c["name"] == "bed" else c["name"] for c in ADE20K)
    torch.save({"meta": {"CLASSES": names}, "state_dict": {"w": torch.zeros(1)}}, tmp_path / "a.pth")

    assert list(read_file(tmp_path / "a.pth").classes) == [c["name"] for c in ADE20K]
