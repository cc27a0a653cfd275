"""Our PIIP against numbers of the official code."""

import pytest
import torch
from official import ATOL, detection, fill, full_size, inputs, official_shape, units
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from piip.models import build_backbone
from piip.models.branches import Branch, windowed
from piip.models.interaction import DeformableCrossAttention, InteractionUnit
from piip.models.naming import from_official, to_official
from piip.models.piip import PIIP
from piip.presets import DEIT, piip
from piip.spec import BranchSpec, InteractionSpec, PIIPSpec

FOUR_HEADS = InteractionSpec(count=2, num_heads=4)


def tiny_branch(width: int, depth: int, heads: int, windows: list[int | None] | int | None) -> Branch:
    vit = VisionTransformer(
        img_size=64, embed_dim=width, depth=depth, num_heads=heads, num_classes=0,
        class_token=False, global_pool="avg", init_values=1.0,
    )  # fmt: skip
    return Branch(vit, window=windows, drop_path=0.1)


# case: branches as (width, depth, heads, windows), and their resolutions
CASES = {
    "window": ([(32, 2, 2, 3), (48, 2, 3, [4, None]), (64, 4, 4, [4, 4, None, 4])], (128, 96, 64)),
    "global": ([(32, 2, 2, None), (48, 2, 3, None), (64, 4, 4, None)], (128, 96, 64)),
    # the official four-branch class builds its branch 4 (our first) with branch 3's settings
    "four_branches": ([(48, 2, 3, 4), (48, 2, 3, 4), (64, 2, 4, 4), (96, 4, 4, None)], (128, 112, 96, 64)),
}


def tiny_piip(case: str) -> PIIP:
    branches, resolutions = CASES[case]
    specs = tuple(BranchSpec(arch="tiny", resolution=resolution) for resolution in resolutions)
    return PIIP([tiny_branch(*branch) for branch in branches], PIIPSpec(branches=specs, interaction=FOUR_HEADS))


def official_shapes(model):
    names = {to_official(name, len(model.branches)): p for name, p in model.named_parameters()}
    return {name: official_shape(name, p.shape) for name, p in names.items()}


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_has_its_official_name_and_shape(case):
    model, (facts, _) = tiny_piip(case), detection(case)

    shapes = official_shapes(model)

    assert shapes == facts["shapes"]
    assert {from_official(name, len(model.branches)) for name in shapes} == {n for n, _ in model.named_parameters()}


@pytest.mark.parametrize("case", CASES)
def test_maps_are_the_official_ones(case):
    facts, maps = detection(case)
    model = fill(tiny_piip(case), lambda name: to_official(name, len(CASES[case][0])))

    with torch.no_grad():
        features = model(inputs(facts["official_case"], facts["input_shape"]))

    features[0] = features[0][:, ::4]
    for feature, expected in zip(features, maps, strict=True):
        torch.testing.assert_close(feature, expected, atol=ATOL, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_the_official_ones(case):
    facts, _ = detection(case)
    model = fill(tiny_piip(case), lambda name: to_official(name, len(CASES[case][0])))

    features = model(inputs(facts["official_case"], facts["input_shape"]))
    loss = sum((feature**2).mean() for feature in features)
    loss.backward()

    assert loss.item() == pytest.approx(facts["loss"], rel=1e-5)
    for name, parameter in model.named_parameters():
        expected = facts["grad_norm"][to_official(name, len(model.branches))]
        assert parameter.grad.norm().item() == pytest.approx(expected, rel=1e-3, abs=1e-6), name


def test_two_way_unit_is_the_official_one():
    expected = units()
    unit = InteractionUnit(high_dim=32, low_dim=48, spec=FOUR_HEADS)
    fill(unit, lambda name: to_official(f"interactions.0.0.{name}", 2).split(".", 3)[3])

    with torch.no_grad():
        high, low = unit(inputs("unit.x2", (1, 35, 32)), inputs("unit.x1", (1, 12, 48)), (5, 7), (4, 3))

    torch.testing.assert_close(low, expected["biunit_proj1/x1"], atol=ATOL, rtol=0)
    torch.testing.assert_close(high, expected["biunit_proj1/x2"], atol=ATOL, rtol=0)


def test_deformable_cross_attention_is_the_official_one():
    attention = fill(DeformableCrossAttention(48, 32, FOUR_HEADS))

    with torch.no_grad():
        out = attention(inputs("unit.msda.q", (1, 12, 48)), inputs("unit.msda.f", (1, 35, 32)), (4, 3), (5, 7))

    torch.testing.assert_close(out, units()["msda/out"], atol=ATOL, rtol=0)


@pytest.mark.parametrize("heads", [4, 16])
def test_offsets_start_as_the_official_ones(heads):
    attention = DeformableCrossAttention(64, 64, InteractionSpec(num_heads=heads))

    attention.reset_parameters()

    expected = units()[f"msda/init_sampling_offsets_bias_heads{heads}_points4"]
    torch.testing.assert_close(attention.sampling_offsets.bias.data, expected, atol=1e-6, rtol=0)


def test_windows_are_padded_before_qkv():
    attention = fill(Attention(32, num_heads=4, qkv_bias=True))

    with torch.no_grad():
        out = windowed(attention, inputs("unit.win.x", (1, 63, 32)), (7, 9), window=4)

    torch.testing.assert_close(out, units()["win_flash_pad_before_qkv/out"], atol=ATOL, rtol=0)


def test_images_are_resized_by_scale_factor():
    specs = tuple(BranchSpec(arch="tiny", resolution=resolution) for resolution in (1120, 448))
    model = PIIP([tiny_branch(32, 2, 2, None) for _ in specs], PIIPSpec(branches=specs, interaction=FOUR_HEADS))

    full, small = model.image_pyramid(inputs("unit.img", (1, 1, 112, 80)))

    assert full.shape[-2:] == (112, 80)
    torch.testing.assert_close(small, units()["img_bilinear_scale_factor_448/1120"], atol=ATOL, rtol=0)


def test_positions_are_resized_bicubic():
    branch = tiny_branch(8, 1, 1, None)
    branch.pos_embed = torch.nn.Parameter(inputs("unit.pos", (1, 196, 8)))

    out: Tensor = branch._positions((20, 13))

    torch.testing.assert_close(out.flatten(), units()["pos_bicubic_14_to_20x13"].flatten(), atol=ATOL, rtol=0)


FULL = {
    "mask_rcnn_deit_tsb_1120_896_448_fpn_1x_coco_bs16": piip("TSB", (1120, 896, 448)),
    "mask_rcnn_deit_sbl_1120_672_448_fpn_1x_coco_bs16": piip("SBL", (1120, 672, 448), window=28),
}


@pytest.mark.parametrize("config", FULL)
def test_full_size_backbone_has_the_official_parameters(config):
    with torch.device("meta"):
        model = build_backbone(FULL[config], pretrained=False)

    shapes = official_shapes(model)

    assert shapes == full_size()["shapes"][config]
    assert set(DEIT) == {"T", "S", "B", "L"}


@pytest.mark.parametrize("config", FULL)
def test_layer_ids_give_the_official_groups(config):
    with torch.device("meta"):
        model = build_backbone(FULL[config], pretrained=False)
    distances = model.layer_ids()
    elements: dict[int, int] = {0: 2}  # the stand-in for neck and heads
    for name, parameter in model.named_parameters():
        distance = distances[name]
        elements[distance] = elements.get(distance, 0) + parameter.numel()

    expected: dict[float, int] = {}
    for group in full_size()["groups"][config]:
        expected[round(group["lr_scale"], 9)] = expected.get(round(group["lr_scale"], 9), 0) + group["n_elem"]

    assert {round(0.85**distance, 9): count for distance, count in elements.items()} == expected
