"""MPViT against the official code: values of tiny networks, names, shapes and multiply-adds of all sizes."""

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
from piip.presets import MPVIT
from piip.spec import ClassifierSpec, ModelSpec, MPViTSpec
from piip.weights.names.mpvit import official_name

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = MPViTSpec(resolution=64, channels=(16, 24, 32, 40), paths=(2, 2, 2, 2), depths=(1, 2, 2, 1), drop_path=0.2)


@cache
def golden() -> dict:
    """`tiny`: network -> configuration; `full`: size -> names, shapes, aliases; `cost`: size -> parameters and multiply-adds."""
    return json.loads(lzma.decompress((GOLDEN / "mpvit.json.xz").read_bytes()))


def tiny(case: str) -> torch.nn.Module:
    config = golden()["tiny"][case]
    spec = MPViTSpec(
        resolution=96, channels=config["embed_dims"], paths=config["num_path"], depths=config["num_layers"],
        mlp_ratio=config["mlp_ratios"][0],
    )  # fmt: skip
    return build_backbone(spec)


@pytest.mark.parametrize(
    ("filled", "scale", "atol", "training"),
    [("weak", 0.02, 1e-5, False), ("strong", 0.2, 1e-4, False), ("strong_trainBN", 0.2, 1e-4, True)],
)
@pytest.mark.parametrize("case", golden()["tiny"])
def test_official_numbers(case, filled, scale, atol, training):
    model = tiny(case).train(training)
    fill(model, scale=scale, name_of=official_name)
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 64, 96))).float()

    with torch.no_grad():
        maps = model(images)

    wanted = np.load(GOLDEN / "mpvit_tiny.npz")
    for stage, feature in enumerate(maps, 2):
        torch.testing.assert_close(
            feature[:, :8], torch.from_numpy(wanted[f"{case}/{filled}/stage{stage}"]), atol=atol, rtol=0
        )


@pytest.mark.parametrize("size", ["T", "XS", "S", "B"])
def test_a_size_has_the_official_names_and_shapes(size):
    with on_meta():
        model = build_backbone(MPVIT[size])

    wanted = golden()["full"][size]
    assert {official_name(name): list(p.shape) for name, p in model.state_dict().items()} == wanted["keys"]
    assert sum(p.numel() for p in model.parameters()) == wanted["params"]
    assert wanted["params"] + MPVIT[size].channels[3] * 1000 + 1000 == golden()["cost"][size]["classifier_params"]


def test_another_name_is_none():
    with pytest.raises(ValueError, match=r"'stages\.0\.local\.x\.weight' is no tensor of an MPViT"):
        official_name("stages.0.local.x.weight")


@pytest.mark.parametrize("size", MPVIT)
def test_multiply_adds_count_attention(size):
    """Convolutions, linear layers and attention's products at 800 x 1280, which the printed figures leave out."""
    wanted = golden()["cost"][size]

    counted = cost(ModelSpec(backbone=MPVIT[size], head=ClassifierSpec(reads="map")), 800, 1280)

    assert counted.backbone_gflops == pytest.approx(wanted["retina"]["mac_backbone_G"], rel=1e-6)
    assert counted.params_m == pytest.approx(wanted["classifier_params"] / 1e6)


def test_every_parameter_learns():
    torch.manual_seed(0)
    model = build_backbone(TINY.override({"drop_path": 0.0}))

    maps = model(torch.rand(2, 3, 64, 64))
    sum((feature * torch.rand_like(feature)).sum() for feature in maps).backward()

    # what stands in front of a BatchNorm without a bias of its own learns, too
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_a_head_gets_the_maps_it_asks_for_and_no_stage_behind_them():
    model = build_backbone(TINY, Maps((8, 16)))

    maps = model(torch.rand(2, 3, 70, 64))  # 70 is no multiple of a stride: maps are rounded up

    assert [tuple(feature.shape) for feature in maps] == [(2, 32, 9, 8), (2, 40, 5, 4)]
    assert model.out_channels == [32, 40]
    assert len(model.stages) == 3
    with pytest.raises(ValueError, match="an MPViT gives maps at strides"):
        build_backbone(TINY, Tokens())


def test_recomputed_layers_give_the_same_gradients():
    plain, saving = (build_backbone(TINY.override({"drop_path": 0.0, "checkpointing": on})) for on in (False, True))
    saving.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 64, 64)
    for model in (plain, saving):
        sum(feature.square().sum() for feature in model(images)).backward()

    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    for one, other in zip(plain.buffers(), saving.buffers(), strict=True):
        torch.testing.assert_close(one, other)  # statistics were counted once


def test_drop_path_grows_over_the_layers_of_all_stages_and_is_the_same_on_all_paths():
    assert TINY.drop_paths() == [pytest.approx(rates) for rates in ([0], [0.04, 0.08], [0.12, 0.16], [0.2])]
    for stage, rates in zip(build_backbone(TINY).stages, TINY.drop_paths(), strict=True):
        assert [[layer.drop_path.drop_prob for layer in path.layers] for path in stage.paths] == [rates, rates]


def test_layers_are_told_from_the_end_and_what_they_share_goes_with_the_first():
    distances = build_backbone(TINY).layer_ids()

    # 6 layers: stage 1 has the second and the third
    assert {name.split(".")[0]: distances[name] for name in distances if "stem" in name} == {"stem": 7}
    assert distances["stages.1.paths.1.layers.1.mlp.fc1.bias"] == 7 - 3
    first = ("embed.0.norm", "paths.1.position", "paths.0.neighbours.convs.2", "local.norm", "paths.1.layers.0.norm1")
    assert {distances[f"stages.1.{part}.weight"] for part in first} == {7 - 2}
    assert (distances["stages.1.merge.conv.weight"], distances["stages.3.merge.conv.weight"]) == (7 - 3, 1)


def test_channels_that_eight_heads_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"channels \[16, 20, 32, 40\] are to be multiples of the 8 heads"):
        TINY.override({"channels": (16, 20, 32, 40)})


def test_it_starts_as_published():
    torch.manual_seed(0)
    model = build_backbone(MPVIT["T"], Maps((4,)))
    stage = model.stages[0]

    # convolutions in front of BatchNorms: variance 2 / (k * k * outputs), of the local path's depthwise one 2 / 9
    assert model.stem[1].conv.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert stage.embed[0].depthwise.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)
    assert stage.local.depthwise.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.1)
    assert stage.paths[0].layers[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert stage.paths[0].layers[0].mlp.fc1.bias.abs().max() == 0
