"""ResNets and the forms of detectors on them against Detectron's own code: counts, maps, proposals' logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron import FAMILIES, manifest, module_names
from filled import value
from torch import nn

from piip.contracts import Maps
from piip.counting.meta import on_meta
from piip.models import build_backbone, build_model
from piip.models.backbones.resnet import Affine
from piip.models.heads.boxes import Anchors
from piip.ops.mask_runs import runs_of
from piip.spec import BottleneckSpec, FasterRCNNSpec, FormSpec, MaskRCNNSpec, ModelSpec, ResNetSpec
from piip.weights.names.detectron import blob_of

TINY = ResNetSpec(resolution=64, channels=8, depths=(1, 1, 1, 1))
SMALL = {"num_classes": 3, "fpn_channels": 32, "box_channels": 8, "rpn_pre_nms": 40, "rpn_post_nms": 20}
NORMS = (nn.GroupNorm, Affine)


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[1] / "golden" / "detectron.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]).float() for name in arrays}


@pytest.mark.parametrize("family", FAMILIES)
def test_as_many_parameters_as_detectron_counts_and_trains(family):
    with on_meta():
        model = build_model(FAMILIES[family], pretrained=False)

    # its fixed doubling of keypoints' maps counts as 4641 there; ours is computed
    fixed = 4641 if family == "kps_R50_FPN" else 0
    assert sum(p.numel() for p in model.parameters()) == manifest(family)["params_total"] - fixed
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == manifest(family)["params_trainable"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mask_R50_C4", "mask_R50_FPN", "mask_R50_FPN_GN"])
def test_detectrons_maps_and_objectness(golden, family):
    spec, names = FAMILIES[family], module_names(family)
    with on_meta():
        model = build_model(spec, pretrained=False).eval()
    _fill_read(model, spec, names)
    height, width = (64, 64) if spec.backbone.norm == "group" else (64, 96)
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, height, width))).float()

    with torch.no_grad():
        pyramid = list(model.head.pyramid(model.backbone(images)).values())
        objectness, _ = model.head.rpn.head(pyramid)

    for number, level in enumerate(reversed(pyramid)):
        stats = torch.stack([level.mean(), level.std(correction=0), level.abs().mean()])
        # what is summed over a level in another order differs by some 1e-6
        torch.testing.assert_close(stats, golden[f"{family}/body{number}_stats"], atol=2e-5, rtol=1e-2)
        sample = golden[f"{family}/body{number}_sample"]
        step = max(1, level.numel() // 200)
        torch.testing.assert_close(level.flatten()[::step][: len(sample)], sample, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(objectness[0].flatten()[::11], golden[f"{family}/rpn_cls"], atol=1e-4, rtol=1e-4)


def _fill_read(model, spec, names):
    """The golden's values in what is looked at; RoI heads stay on the meta device."""
    norms = {name for name, module in model.named_modules() if isinstance(module, NORMS)}
    for name, tensor in model.state_dict().items():
        if "roi_heads" in name:
            continue
        owner, _, leaf = name.rpartition(".")
        key = names[blob_of(name, spec.backbone, spec.head)]
        filled = value(key, tensor.shape, scale=0.02, around_one=owner in norms and leaf == "weight").float()
        setattr(model.get_submodule(owner), leaf, nn.Parameter(filled, requires_grad=False))


def test_detectrons_anchors_on_one_map(golden):
    scales = FormSpec(maps="c4").scales(8)

    cell = Anchors(scales, (16,), "pixels").cell(16)

    wanted = golden["anchors/c4"] + torch.tensor([0, 0, 1, 1])  # it counts to the last pixel
    torch.testing.assert_close(cell, wanted, rtol=0, atol=0)


def test_what_is_frozen_and_what_is_never_learned():
    backbone = build_backbone(TINY.override({"freeze_at": 2}))

    learned = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in learned} == {"res3", "res4", "res5"}
    assert not any("bn" in name or "downsample.1" in name for name in learned)
    assert all(not p.requires_grad for p in build_backbone(TINY.override({"freeze_at": 5})).parameters())


def test_a_stride_is_in_the_convolution_that_is_named():
    for place, strides in (("1x1", ((2, 2), (1, 1))), ("3x3", ((1, 1), (2, 2)))):
        backbone = build_backbone(TINY.override({"stride_in": place}))
        first = backbone.levels["res3"][0]
        assert (first.conv1.stride, first.conv2.stride) == strides


def test_a_dilated_res5_keeps_its_stride():
    backbone = build_backbone(TINY.override({"res5_dilation": 2}), Maps((16,)))

    (found,) = backbone(torch.rand(1, 3, 64, 64))

    assert found.shape == (1, 256, 4, 4)
    with pytest.raises(ValueError, match=r"a ResNet of res5_dilation 2 gives maps at strides \(4, 8, 16, 16\)"):
        build_backbone(TINY.override({"res5_dilation": 2}))


@pytest.mark.parametrize("maps", ["fpn_p2", "fpn_p7", "c4", "c5", "c5_dilated"])
def test_every_form_trains_and_predicts(maps):
    torch.manual_seed(0)
    form = FormSpec(maps=maps, anchor_sides=(16, 32), res5=BottleneckSpec(channels=4), res5_blocks=1)
    head = MaskRCNNSpec(**SMALL, mask_convs=0, mask_channels=32, dialect="detectron", form=form)
    body = TINY.override({"norm": "group", "norm_groups": 4, "res5_dilation": 2 if maps == "c5_dilated" else 1})
    model = build_model(ModelSpec(backbone=body, head=head))
    box = torch.tensor([[4.0, 4, 40, 40]])
    target = {"boxes": box, "labels": torch.tensor([2]), "mask_runs": runs_of(torch.ones(1, 64, 64))}

    losses = model(torch.rand(1, 3, 64, 64), [(64, 64)], [target])
    sum(losses.values()).backward()
    with torch.no_grad():
        (found,) = model.eval()(torch.rand(1, 3, 64, 64))

    assert all(loss.isfinite() for loss in losses.values())
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert found["masks"].shape[1:] == ((1, 14, 14) if maps == "c4" else (1, 28, 28))
    with torch.no_grad():
        assert all(len(call()) >= 0 for call in model.head.probe(model.backbone(torch.rand(1, 3, 64, 64))).values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"form.norm": "group", "fpn_channels": 24}, "fpn_channels 24 is no multiple of 32"),
        ({"form.maps": "c4", "form.box_convs": 4}, "maps 'c4' looks at boxes by res5: box_convs 4"),
        ({"form.maps": "c4", "mask_convs": 4}, "set mask_convs to 0, not 4"),
    ],
)
def test_forms_that_contradict_themselves_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        MaskRCNNSpec().override(changes)


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="norm 'group' of 32 norm_groups does not divide 8 channels"):
        TINY.override({"norm": "group"})


def test_the_default_form_is_what_heads_were_before_there_were_others():
    assert "form" not in FasterRCNNSpec().identity()
    assert "form" in FasterRCNNSpec(form=FormSpec(maps="c4")).identity()
