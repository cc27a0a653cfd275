"""Our PIIP against numbers of the official code: every shape of the network, in tiny."""

import pytest
import torch
from official import ATOL, cases, fill, inputs, official_name, outputs, tiny_model, tiny_spec, tiny_wish, units
from timm.layers import Attention, RmsNorm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from piip.models.backbones.piip import PIIP
from piip.models.branches.attention import FullNormAttention, windowed, windowed_after_qkv
from piip.models.branches.internvit import RMS_NORM
from piip.models.branches.vit import Branch
from piip.models.meeting.interaction import DeformableCrossAttention, InteractionUnit
from piip.spec import BranchSpec, InteractionSpec, PIIPSpec
from piip.weights.names.piip import left_out, official_shape, to_official
from piip.weights.resizing import resize_relative_positions, resized_positions

FOUR_HEADS = InteractionSpec(count=2, num_heads=4)
EACH_CASE = pytest.mark.parametrize("case", cases())


def backbone(model) -> PIIP:
    return model if isinstance(model, PIIP) else model.backbone


@EACH_CASE
def test_every_parameter_has_its_official_name_and_shape(case):
    model, spec, facts = tiny_model(case), tiny_spec(case), cases()[case]

    names = {official_name(name, spec): p.shape for name, p in model.named_parameters()}

    ours = {name: official_shape(name, shape) for name, shape in names.items()}
    theirs = {name: shape for name, shape in facts["shapes"].items() if not left_out(name, spec, tiny_wish(case))}
    assert ours == theirs
    assert sum(p.numel() for p in model.parameters()) == facts["n_params"]


@EACH_CASE
def test_outputs_are_the_official_ones(case):
    model, expected = tiny_model(case), outputs(case)

    with torch.no_grad():
        out = model(inputs(case, cases()[case]["input_shape"]))

    if case.startswith("cls"):
        logits = torch.stack([prediction["logits"] for prediction in out])
        torch.testing.assert_close(logits[:, ::5], expected["logits"], atol=ATOL, rtol=0)
        return
    names = [name for name in expected if name.startswith("out")]
    # the golden keeps few channels: every 32nd of the finest of four maps, 16th of the next, 4th
    steps = {"out0": 32 if len(names) == 4 else 16, "out1": 16, "out2": 4, "out3": 1}
    for name, feature in zip(names, out, strict=True):
        torch.testing.assert_close(feature[:, :: steps[name]], expected[name], atol=ATOL, rtol=0)


@EACH_CASE
def test_tokens_after_every_interaction_are_the_official_ones(case):
    model, facts = tiny_model(case), cases()[case]
    seen: list[list[Tensor]] = []
    interact = PIIP._interact

    def spy(self, units, tokens, grids):
        interact(self, units, tokens, grids)
        patches = [t[:, b.prefix :] for t, b in zip(tokens, self.branches, strict=True)]
        classes = [t[:, : b.prefix] for t, b in zip(tokens, self.branches, strict=True) if b.prefix]
        seen.append([*reversed(patches), *reversed(classes)])  # the official code counts from the largest network

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(PIIP, "_interact", spy)
        backbone(model).branch_tokens(inputs(case, facts["input_shape"]))

    assert len(seen) == len(facts["tokens"])
    for step, tokens in zip(facts["tokens"], seen, strict=True):
        for expected, ours in zip((t for t in step if t), tokens, strict=True):
            assert list(ours.shape) == expected["shape"]
            assert ours.mean().item() == pytest.approx(expected["mean"], abs=1e-6)
            assert ours.abs().mean().item() == pytest.approx(expected["absmean"], abs=1e-5)
    if "tokens_final_branch1" in outputs(case):
        torch.testing.assert_close(seen[-1][0], outputs(case)["tokens_final_branch1"], atol=ATOL, rtol=0)


@EACH_CASE
def test_gradients_are_the_official_ones(case):
    model, spec, facts = tiny_model(case), tiny_spec(case), cases()[case]

    out = model(inputs(case, facts["input_shape"]))
    if case.startswith("cls"):
        out = [torch.stack([prediction["logits"] for prediction in out])]
    loss = sum((feature**2).mean() for feature in out)
    loss.backward()

    assert loss.item() == pytest.approx(facts["loss"], rel=1e-5)
    for name, parameter in model.named_parameters():
        expected = facts["grad_norm"][official_name(name, spec)]
        if expected is None:
            assert parameter.grad is None, name
        else:
            assert parameter.grad.norm().item() == pytest.approx(expected, rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("case", [case for case in cases() if "separate" in case])
def test_class_tokens_as_meant_give_what_the_official_heads_would_say_of_them(case):
    model = tiny_model(case)
    model.head.head_token = "class"

    with torch.no_grad():
        predictions = model(inputs(case, cases()[case]["input_shape"]))
    logits = torch.stack([prediction["logits"] for prediction in predictions])

    expected = outputs(case)
    torch.testing.assert_close(logits[:, ::5], expected["logits_if_cls_token_were_used"], atol=ATOL, rtol=0)
    assert (expected["logits"] - expected["logits_if_cls_token_were_used"]).abs().max() > 0.1


@pytest.mark.parametrize("projection", [True, False])
def test_two_way_unit_is_the_official_one(projection):
    expected, two = units(), PIIPSpec(branches=(BranchSpec(arch="deit", resolution=64),) * 2)
    unit = InteractionUnit(high_dim=32, low_dim=48, spec=FOUR_HEADS.override({"projection": projection}))
    fill(unit, lambda name: to_official(f"interactions.0.0.{name}", two).split(".", 3)[3])

    with torch.no_grad():
        high, low = unit(inputs("unit.x2", (1, 35, 32)), inputs("unit.x1", (1, 12, 48)), (5, 7), (4, 3))

    torch.testing.assert_close(low, expected[f"biunit_proj{projection:d}/x1"], atol=ATOL, rtol=0)
    torch.testing.assert_close(high, expected[f"biunit_proj{projection:d}/x2"], atol=ATOL, rtol=0)


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


@pytest.mark.parametrize(
    ("flavour", "attention", "pad"),
    [
        ("flash_pad_before_qkv", Attention(32, num_heads=4, qkv_bias=True), windowed),
        ("naive_pad_after_qkv", Attention(32, num_heads=4, qkv_bias=True), windowed_after_qkv),
        ("internvit_rms_qknorm", FullNormAttention(32, num_heads=4, norm_layer=RMS_NORM), windowed),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_windows_are_padded_as_the_official_ones(flavour, attention, pad):
    fill(attention)

    with torch.no_grad():
        out = pad(attention, inputs("unit.win.x", (1, 63, 32)), (7, 9), window=4)

    torch.testing.assert_close(out, units()[f"win_{flavour}/out"], atol=ATOL, rtol=0)


def test_images_are_resized_by_scale_factor():
    specs = tuple(BranchSpec(arch="tiny", resolution=resolution) for resolution in (1120, 448))
    vits = [
        VisionTransformer(img_size=64, embed_dim=32, depth=2, num_heads=2, class_token=False, global_pool="avg")
        for _ in specs
    ]
    model = PIIP([Branch(vit) for vit in vits], PIIPSpec(branches=specs, interaction=FOUR_HEADS))

    full, small = model.image_pyramid(inputs("unit.img", (1, 1, 112, 80)))

    assert full.shape[-2:] == (112, 80)
    torch.testing.assert_close(small, units()["img_bilinear_scale_factor_448/1120"], atol=ATOL, rtol=0)


def test_positions_are_resized_bicubic():
    out = resized_positions(inputs("unit.pos", (1, 196, 8)), (20, 13))

    torch.testing.assert_close(out, units()["pos_bicubic_14_to_20x13"], atol=ATOL, rtol=0)


@pytest.mark.parametrize("window", [28, 16])
def test_relative_positions_are_resized_by_a_spline_over_growing_distances(window):
    table = inputs("relpos27", (732, 2))[:-3]

    resized = resize_relative_positions(table, window)

    torch.testing.assert_close(resized, units()[f"relpos_27_to_{2 * window - 1}"], atol=ATOL, rtol=0)


def test_rms_norm_is_the_official_one():
    norm = fill(RmsNorm(16, eps=1e-6))

    torch.testing.assert_close(norm(inputs("unit.rms", (2, 3, 16))), units()["rmsnorm/out"], atol=ATOL, rtol=0)


def test_names_of_interactions_without_ffn_leave_an_official_scale_of_it_alone():
    with_ffn = PIIPSpec(branches=(BranchSpec(arch="deit", resolution=64),) * 2)
    without = with_ffn.override({"interaction.ffn": False})
    gamma = "interactions.0.interaction_units_12.branch1to2_injector.cffn_gamma"

    assert left_out(gamma, with_ffn) is None
    assert "does not have" in left_out(gamma, without)
    assert left_out(gamma.replace("cffn_gamma", "ffn.fc1.weight"), without) is None
