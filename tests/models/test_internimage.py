"""InternImage against the official code: values of tiny networks, names and shapes of all sizes, pretraining."""

import json
import lzma
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from filled import fill

from piip.contracts import Maps, Tokens
from piip.counting.cost import cost
from piip.counting.meta import on_meta
from piip.models import build_backbone
from piip.presets import INTERNIMAGE
from piip.spec import ExperimentSpec, InternImageSpec, ModelSpec
from piip.training.start import files_of
from piip.weights.names.internimage import fit_pretraining
from piip.weights.read import Weights, WeightsError
from piip.weights.sources import read_weights

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = InternImageSpec(resolution=64, channels=8, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8), drop_path=0.2)
BIG = {"layer_scale": None, "dw_kernel_size": 5, "center_feature_scale": True}


@cache
def golden() -> dict:
    """`tiny`, `full`: network -> configuration, keys; `groups`: recipe -> scales of rates, names that decay."""
    return json.loads(lzma.decompress((GOLDEN / "internimage.json.xz").read_bytes()))


def spec_of(config: dict, **changes) -> InternImageSpec:
    """The official configuration in our words."""
    norms = "res_post" if config.get("res_post_norm") else "post" if config["post_norm"] else "pre"
    return InternImageSpec(
        resolution=96, channels=config["channels"], depths=config["depths"], groups=config["groups"], norms=norms,
        layer_scale=config["layer_scale"], offset_scale=config["offset_scale"],
        dw_kernel_size=config.get("dw_kernel_size") or 3, center_feature_scale=config.get("center_feature_scale", False),
        post_norm_blocks=config.get("level2_post_norm_block_ids") or (), **changes,
    )  # fmt: skip


@pytest.mark.parametrize(("filled", "scale", "atol"), [("weak", 0.02, 1e-5), ("strong", 0.2, 2e-4)])
@pytest.mark.parametrize("case", golden()["tiny"])
def test_official_numbers(case, filled, scale, atol):
    model = build_backbone(spec_of(golden()["tiny"][case]["config"])).eval()
    fill(model, scale=scale, gamma_one=filled == "strong")
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 64, 96))).float()

    with torch.no_grad():
        maps = model(images)

    wanted = np.load(GOLDEN / "internimage_tiny.npz")
    for stage, feature in enumerate(maps):
        torch.testing.assert_close(
            feature[:, :8], torch.from_numpy(wanted[f"{case}/{filled}/stage{stage}"]), atol=atol, rtol=0
        )


@pytest.mark.parametrize("size", INTERNIMAGE)
def test_a_size_has_the_official_names_and_shapes(size):
    with on_meta():
        model = build_backbone(INTERNIMAGE[size])

    wanted = golden()["full"][size]
    assert {name: list(p.shape) for name, p in model.state_dict().items()} == {
        name: shape for name, (shape, _) in wanted["keys"].items()
    }
    assert sum(p.numel() for p in model.parameters()) == wanted["params"]


def test_layers_as_meant_go_with_the_blocks_they_follow():
    with on_meta():
        model = build_backbone(INTERNIMAGE["H"])
    published, meant = model.layer_ids(), model.layer_ids(exact=True)

    # 50 blocks: level 2 is blocks 12 to 43; its norm 4 stands behind its block 29, which is the network's 42nd
    assert (meant["levels.2.post_norms.4.0.weight"], published["levels.2.post_norms.4.0.weight"]) == (51 - 42, 51 - 17)
    assert (meant["levels.3.norm.0.weight"], published["levels.3.norm.0.weight"]) == (0, 51 - 45)
    same = [name for name in meant if "post_norms.4" not in name and "levels.3.norm" not in name]
    assert {name for name in same if meant[name] != published[name]} == {
        f"levels.2.post_norms.{k}.0.{part}" for k in range(4) for part in ("weight", "bias")
    }


@pytest.mark.parametrize("form", [{}, {"norms": "post"}, {"norms": "res_post", "post_norm_blocks": (0,), **BIG}])
def test_every_parameter_learns(form):
    torch.manual_seed(0)
    model = build_backbone(TINY.override({"drop_path": 0.0, **form}))
    for name, parameter in model.named_parameters():
        if "dcn.offset" in name or "dcn.mask" in name:
            torch.nn.init.normal_(parameter, std=0.1)

    maps = model(torch.rand(1, 3, 64, 64))
    sum((feature * torch.rand_like(feature)).sum() for feature in maps).backward()

    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_a_head_gets_the_maps_it_asks_for_and_no_level_behind_them():
    model = build_backbone(TINY, Maps((8, 16)))

    maps = model(torch.rand(1, 3, 70, 64))  # 70 is no multiple of a stride: maps are rounded up

    assert [tuple(feature.shape) for feature in maps] == [(1, 16, 9, 8), (1, 32, 5, 4)]
    assert model.out_channels == [16, 32]
    assert len(model.levels) == 3
    with pytest.raises(ValueError, match="an InternImage gives maps at strides"):
        build_backbone(TINY, Tokens())


def test_recomputed_blocks_give_the_same_gradients():
    plain, saving = (build_backbone(TINY.override({"drop_path": 0.0, "checkpointing": on})) for on in (False, True))
    saving.load_state_dict(plain.state_dict())
    images = torch.rand(1, 3, 64, 64)
    for model in (plain, saving):
        sum(feature.square().sum() for feature in model(images)).backward()

    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_drop_path_grows_over_all_blocks():
    assert TINY.drop_paths() == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert TINY.override({"drop_path_rule": "constant"}).drop_paths() == [0.2] * 5
    rates = [block.drop_path.drop_prob for level in build_backbone(TINY).levels for block in level.blocks]
    assert rates == TINY.drop_paths()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": (3, 2, 4, 8)}, "do not divide the levels' channels"),
        ({"norms": "res_post"}, "goes without a layer scale"),
        ({"post_norm_blocks": (2,)}, "blocks of the third level, rising from 0 to 1"),
    ],
)
def test_what_no_network_has_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TINY.override(changes)


def test_a_kernel_that_it_does_not_have_is_refused_early():
    with pytest.raises(ValueError, match="'triton' is for a PIIP's attention"):
        ExperimentSpec(name="x", model={"backbone": TINY}, speed={"kernel": "triton"})


@pytest.mark.parametrize("size", ["T", "XL"])
def test_multiply_adds_are_the_papers_arithmetic(size):
    """Convolutions and linear layers of the official backbone at 800 x 1280, and its convention for DCNv3."""
    wanted = golden()["flops"][size]

    counted = cost(ModelSpec(backbone=INTERNIMAGE[size]), 800, 1280)

    assert counted.backbone_gflops == pytest.approx(wanted["mac_backbone_G"] + wanted["dcnv3_addon_G"], rel=1e-6)


def classifier_file(model, path, *, layer_scale=True, **others) -> str:
    """A classifier's file with this body, as the official ones: a head, in H and G also what distils CLIP."""
    body = {name: value.clone() + 1 for name, value in model.state_dict().items() if layer_scale or "gamma" not in name}
    rest = ("conv_head.0.weight", "head.weight", "dcnv3_head_x4.0.weight", "clip_projector.norm.bias", "fc_norm.0.bias")
    torch.save({"model": body | dict.fromkeys(rest, torch.zeros(3)) | others}, path)
    return str(path)


def test_a_network_begins_with_its_public_pretraining(tmp_path):
    given = build_backbone(TINY)
    file = classifier_file(given, tmp_path / "t.pth", layer_scale=False)

    model, fewer = (
        build_backbone(TINY.override({"weights": file}), Maps(strides)) for strides in ((4, 8, 16, 32), (4, 8))
    )

    state = model.state_dict()
    for name, value in given.state_dict().items():  # T's has no layer scale: the detector's stays
        assert torch.equal(state[name], value if "gamma" in name else value + 1), name
    assert len(fewer.levels) == 2
    assert torch.equal(
        build_backbone(TINY.override({"weights": "nowhere"}), pretrained=False).levels[0].norm[0].weight, torch.ones(8)
    )


def test_what_became_of_a_file_is_said_tensor_by_tensor(tmp_path):
    model = build_backbone(TINY)
    in_detector = {f"backbone.{name}": value for name, value in model.state_dict().items()} | {"neck.x": torch.zeros(1)}

    _, of_classifier = fit_pretraining(read_weights(classifier_file(model, tmp_path / "s.pth")), model.state_dict())
    _, of_detector = fit_pretraining(Weights(in_detector, "detector"), model.state_dict())

    assert set(of_classifier.matched) == set(of_detector.matched) == set(model.state_dict())
    assert of_classifier.ignored == dict.fromkeys(
        ("conv_head.0.weight", "head.weight", "dcnv3_head_x4.0.weight", "clip_projector.norm.bias", "fc_norm.0.bias"),
        "the classifier's",
    )
    assert of_detector.ignored == {"neck.x": "the detector's"}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"channels": 16}, r"Missing: patch_embed.conv1.weight, .*The file is of another network"),
        ({"depths": (1, 1, 3, 1)}, r"Missing: levels.2.blocks.2.gamma1"),
        ({"depths": (1, 1, 1, 1)}, r"Unexplained: levels.2.blocks.1.gamma1 \(this network has no such tensor\)"),
        ({"dw_kernel_size": 5}, r"Missing: levels.0.blocks.0.dcn.dw_conv.0.weight"),
    ],
)
def test_a_file_of_another_size_explains_itself(other, message, tmp_path):
    file = classifier_file(build_backbone(TINY), tmp_path / "t.pth")

    with pytest.raises(WeightsError, match=message):
        build_backbone(TINY.override({**other, "weights": file}))


def test_a_start_is_named_and_its_file_makes_the_trial(tmp_path):
    file = classifier_file(build_backbone(TINY), tmp_path / "internimage_t.pth")
    started = TINY.override({"weights": file})

    assert (TINY.start, started.start) == ("from scratch", "pretrained (internimage_t.pth)")
    assert files_of(ModelSpec(backbone=started)) == {"backbone.weights": file}
    assert files_of(ModelSpec(backbone=TINY)) == {}
