import numpy as np
import pytest
import torch
from torch import nn

from piip.contracts import Maps, Tokens
from piip.models import build_backbone
from piip.models.branches.vit import block_ranges
from piip.models.meeting.interaction import DeformableCrossAttention, InteractionUnit
from piip.models.meeting.merge import Doubling, SimplePyramid
from piip.ops.deform_attn_pair import deform_attn_pair
from piip.presets import DEIT, IMAGENET_PIXELS, PICO, piip
from piip.spec import BranchSpec, CNNSpec, InteractionSpec, PIIPSpec

COMBINATIONS = {
    "B": (64,),
    "TB": (128, 64),
    "TSB": (128, 96, 64),
    "TSBB": (128, 96, 80, 64),
}


def pico_piip(letters, count=3, patch16=False):
    branches = {"T": DEIT["T"], "S": DEIT["T"], "B": DEIT["T"]} if patch16 else PICO
    spec = piip(
        letters,
        COMBINATIONS[letters],
        branches=branches,
        window=4,
        interaction=InteractionSpec(count=count, num_heads=4),
    )
    return build_backbone(spec, pretrained=False)


def wake(model):
    """Interaction scales away from zero, so that something flows."""
    for name, parameter in model.named_parameters():
        if name.endswith("gamma") and "interactions" in name:
            nn.init.constant_(parameter, 0.5)
    return model


@pytest.mark.parametrize("letters", COMBINATIONS)
def test_any_number_of_branches_gives_four_maps(letters):
    model = pico_piip(letters)

    features = model(torch.rand(2, 3, 128, 96))

    assert [tuple(f.shape) for f in features] == [
        (2, c, 128 // s, 96 // s) for c, s in zip(model.out_channels, (4, 8, 16, 32), strict=True)
    ]


def test_patch_16_gives_the_same_strides():
    features = pico_piip("TB", patch16=True)(torch.rand(1, 3, 128, 96))

    assert [tuple(f.shape[-2:]) for f in features] == [(32, 24), (16, 12), (8, 6), (4, 3)]


@pytest.mark.parametrize("letters", COMBINATIONS)
def test_untrained_interactions_leave_branches_alone(letters):
    model = pico_piip(letters).eval()
    images = torch.rand(1, 3, 128, 96)

    with torch.no_grad():
        tokens, _ = model.branch_tokens(images)
        alone = [branch(image) for branch, image in zip(model.branches, model.image_pyramid(images), strict=True)]

    for seen, expected in zip(tokens, alone, strict=True):
        torch.testing.assert_close(seen, expected)


def test_trained_interactions_carry_features_to_every_branch():
    model = wake(pico_piip("TSB")).eval()
    images = torch.rand(1, 3, 128, 96)

    with torch.no_grad():
        tokens, _ = model.branch_tokens(images)
        alone = [branch(image) for branch, image in zip(model.branches, model.image_pyramid(images), strict=True)]

    for seen, expected in zip(tokens, alone, strict=True):
        assert not torch.allclose(seen, expected, atol=1e-3)


def test_doubling_is_a_transposed_convolution():
    doubling, plain = Doubling(6).double(), nn.ConvTranspose2d(6, 6, 2, stride=2).double()
    plain.load_state_dict(doubling.state_dict())
    image = torch.randn(2, 6, 3, 5, dtype=torch.float64, requires_grad=True)
    weigh = torch.randn(2, 6, 6, 10, dtype=torch.float64)

    ours, theirs = (
        [layer(image), *torch.autograd.grad((layer(image) * weigh).sum(), [image, layer.weight, layer.bias])]
        for layer in (doubling, plain)
    )

    torch.testing.assert_close(ours, theirs)


def test_no_interactions_merge_only():
    model = pico_piip("TSB", count=0)

    assert len(model.interactions) == 0
    assert model(torch.rand(1, 3, 128, 96))[0].shape == (1, 128, 32, 24)


@pytest.mark.parametrize("letters", COMBINATIONS)
def test_every_parameter_has_a_gradient(letters):
    model = wake(pico_piip(letters))

    sum((f**2).mean() for f in model(torch.rand(1, 3, 128, 96))).backward()

    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_bf16_keeps_coordinates_in_fp32(monkeypatch):
    seen = []

    def spy(*directions, **kwargs):
        seen.extend((direction.value.dtype, direction.packed.dtype) for direction in directions)
        return deform_attn_pair(*directions, **kwargs)

    monkeypatch.setattr("piip.models.meeting.interaction.deform_attn_pair", spy)
    with torch.autocast("cpu", torch.bfloat16):
        pico_piip("TB")(torch.rand(1, 3, 64, 64))

    assert set(seen) == {(torch.bfloat16, torch.float32)}


def test_bf16_is_near_fp32():
    model = wake(pico_piip("TSB")).eval()
    images = torch.rand(1, 3, 128, 96)

    with torch.no_grad():
        exact = model(images)[2]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(images)[2]

    assert (rounded.float() - exact).abs().mean() < 0.03 * exact.abs().mean()


def test_heads_that_do_not_divide_the_width_are_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"num_heads 16 .* width 24 .*\[1, 2, 3, 4, 6, 8, 12, 24\]"):
        DeformableCrossAttention(48, 48, InteractionSpec(num_heads=16))


def test_more_interactions_than_blocks_are_refused():
    with pytest.raises(ValueError, match=r"count 7 .* at most 6"):
        pico_piip("TSB", count=7)


@pytest.mark.parametrize(
    ("depth", "count", "shares"),
    [(12, 12, [1] * 12), (24, 12, [2] * 12), (32, 12, [2] * 4 + [3] * 8), (6, 4, [1, 1, 2, 2]), (6, 1, [6])],
)
def test_blocks_are_shared_evenly(depth, count, shares):
    ranges = block_ranges(depth, count)

    assert [stop - start for start, stop in ranges] == shares
    assert [block for start, stop in ranges for block in range(start, stop)] == list(range(depth))


def test_layer_ids_count_the_blocks_above():
    ids = pico_piip("TSB").layer_ids()

    assert ids["branches.0.blocks.5.norm1.weight"] == 1
    assert ids["branches.2.blocks.0.attn.qkv.weight"] == 6
    assert ids["branches.1.pos_embed"] == 7
    assert {distance for name, distance in ids.items() if not name.startswith("branches.")} == {0}
    assert set(ids) == {name for name, _ in pico_piip("TSB").named_parameters()}


def test_equal_seeds_build_equal_networks():
    torch.manual_seed(3)
    first = pico_piip("TB").state_dict()
    torch.manual_seed(3)
    second = pico_piip("TB").state_dict()

    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_patch_the_pyramid_cannot_use_is_refused():
    with pytest.raises(ValueError, match="patches of 14 pixels"):
        SimplePyramid([64] * 4, [14] * 4)


def test_branches_of_a_spec_reach_the_network():
    spec = PIIPSpec(branches=(BranchSpec(arch="pico_tiny.glyphs", resolution=64, window=None, drop_path=0.1),))

    branch = build_backbone(spec, pretrained=False).branches[0]

    assert branch.windows == [None] * 6
    assert branch.blocks[3].drop_path1.drop_prob == 0.1


def test_a_cnn_gives_four_maps():
    model = build_backbone(CNNSpec(arch="resnet18", resolution=64))

    features = model(torch.rand(1, 3, 64, 96))

    assert [f.shape[1] for f in features] == model.out_channels == [64, 128, 256, 512]
    assert [tuple(f.shape[-2:]) for f in features] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert set(model.layer_ids().values()) == {0}


def test_an_unknown_cnn_is_refused():
    with pytest.raises(ValueError, match="resnet19"):
        build_backbone(CNNSpec(arch="resnet19", resolution=64))


def bilinear(image, ratio):
    """Resizing by scale factor in numpy: output pixel i lies at (i + 1/2) / ratio - 1/2 of the input."""
    weights = []
    for side in image.shape[-2:]:
        matrix = np.zeros((int(side * ratio), side))
        for i in range(len(matrix)):
            place = max((i + 0.5) / ratio - 0.5, 0.0)
            low = int(place)
            matrix[i, low] += 1 - (place - low)
            matrix[i, min(low + 1, side - 1)] += place - low
        weights.append(matrix)
    return torch.from_numpy(
        np.einsum("ij,bcjk,lk->bcil", weights[0], image.double().numpy(), weights[1], optimize=True)
    ).float()


def test_ratios_that_are_no_integers_resize_by_scale_and_truncate_grids():
    # 1120 / 896 / 448 on 352 x 240: 281.6 x 192 -> 281 x 192 and 140.8 x 96 -> 140 x 96 pixels
    spec = piip("TSB", (1120, 896, 448), branches=PICO, window=3, interaction=InteractionSpec(count=2, num_heads=4))
    model = wake(build_backbone(spec, pretrained=False)).eval()
    images = torch.rand(1, 3, 352, 240)

    with torch.no_grad():
        pyramid = model.image_pyramid(images)
        tokens, grids = model.branch_tokens(images)

        assert [tuple(image.shape[-2:]) for image in pyramid] == [(352, 240), (281, 192), (140, 96)]
        assert grids == [(44, 30), (35, 24), (17, 12)]  # patches of 8; the rest of 281 and 140 is dropped
        seen = [images, bilinear(images, 896 / 1120), bilinear(images, 448 / 1120)]
        for image, expected in zip(pyramid, seen, strict=True):
            torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)
        by_size = torch.nn.functional.interpolate(images, size=(140, 96), mode="bilinear", align_corners=False)
        assert (pyramid[2] - by_size).abs().max() > 0.01  # resizing by size samples other places

        # the same network by hand: two shares of the blocks, the pair of larger images first
        states = [branch.embed(image) for branch, image in zip(model.branches, seen, strict=True)]
        for step, start in enumerate((0, 3)):
            states = [b.run(t, g, start, start + 3)[0] for b, t, g in zip(model.branches, states, grids, strict=True)]
            states[0], states[1] = model.interactions[step][0](states[0], states[1], grids[0], grids[1])
            states[1], states[2] = model.interactions[step][1](states[1], states[2], grids[1], grids[2])
    for ours, expected in zip(tokens, states, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_three_maps_for_dino_leave_the_finest_level_out():
    spec = piip("TB", (96, 64), branches=PICO, window=4, interaction=InteractionSpec(count=2, num_heads=4))
    wish = Maps((8, 16, 32))

    model, kept = (build_backbone(s, wish, pretrained=False) for s in (spec, spec.override({"unused_level": True})))

    assert [tuple(f.shape[-2:]) for f in model(torch.rand(1, 3, 96, 64))] == [(12, 8), (6, 4), (3, 2)]
    assert model.out_channels == kept.out_channels == [128] * 3
    assert not list(model.pyramid[0].parameters())
    assert [f.shape for f in kept(torch.rand(1, 3, 96, 64))] == [f.shape for f in model(torch.rand(1, 3, 96, 64))]
    assert list(kept.pyramid[0].parameters())


def test_a_regular_fpn_merges_on_the_way():
    spec = piip("TB", (96, 64), branches=PICO, window=4, interaction=InteractionSpec(count=6, num_heads=4))
    model = wake(build_backbone(spec.override({"fpn": "regular", "merge_after": (0, 2, 4)}), pretrained=False))

    features = model(torch.rand(1, 3, 96, 64))
    sum((f**2).mean() for f in features[:1]).backward()

    assert [tuple(f.shape[-2:]) for f in features] == [(24, 16), (12, 8), (6, 4), (3, 2)]
    assert model.branches[0].blocks[0].mlp.fc1.weight.grad is not None
    assert model.branches[0].blocks[1].mlp.fc1.weight.grad is None  # the finest map was made before


def test_a_hybrid_of_convnext_and_vit_meets_at_every_stage():
    branches = {
        "C": BranchSpec(arch="convnext_atto", resolution=96, pretrained=False, window=None),
        "V": BranchSpec(arch="pico_base", resolution=96, pretrained=False, window=4),
    }
    spec = piip("CV", (96, 64), branches=branches, interaction=InteractionSpec(count=6, num_heads=4))
    model = build_backbone(spec.override({"fpn": "regular", "merge_after": (0, 1, 4)}), pretrained=False)

    features = model(torch.rand(1, 3, 96, 64))

    assert [tuple(f.shape) for f in features] == [(1, 128, 96 // s, 64 // s) for s in (4, 8, 16, 32)]
    assert not list(model.pyramid.parameters())  # the ConvNeXt has these strides already
    assert {d for n, d in model.layer_ids().items() if n.startswith("branches.0.")} == {0}  # released: never decayed
    assert model.layer_ids(exact=True)["branches.0.stem.0.weight"] == model.branches[0].depth + 1


def test_the_segmentation_class_sees_its_input_at_the_second_branch():
    spec = piip("TSB", (96, 64, 32), branches=PICO, window=4, interaction=InteractionSpec(count=2, num_heads=4))
    model = build_backbone(spec.override({"input_branch": 1}), pretrained=False)

    sides = [tuple(image.shape[-2:]) for image in model.image_pyramid(torch.rand(1, 3, 64, 64))]

    assert sides == [(96, 96), (64, 64), (32, 32)]
    assert spec.override({"input_branch": 1}).resolution == 64


def test_a_branch_of_another_pretraining_sees_the_same_colours_in_its_own_units():
    spec = piip("TB", (96, 96), branches=PICO, interaction=InteractionSpec(count=2, num_heads=4))
    imagenet = {f"branches.1.{name}": value for name, value in IMAGENET_PIXELS.items()}
    model = build_backbone(spec.override(imagenet), pretrained=False)
    pixels = torch.rand(1, 3, 96, 96) * 255
    first, second = (
        (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        for mean, std in (((127.5,) * 3, (127.5,) * 3), IMAGENET_PIXELS.values())
    )

    seen = model.image_pyramid(first)

    torch.testing.assert_close(seen[0], first)
    torch.testing.assert_close(seen[1], second, atol=1e-5, rtol=0)
    assert (first - second).abs().max() > 0.3


def test_a_head_that_reads_tokens_is_told_that_a_cnn_has_none():
    with pytest.raises(ValueError, match=r"gives maps at strides .* this head reads the tokens of a PIIP's branches"):
        build_backbone(CNNSpec(arch="resnet18", resolution=64), Tokens(), pretrained=False)


def test_without_ffn_a_unit_adds_what_was_found_and_nothing_else():
    unit = InteractionUnit(32, 48, InteractionSpec(num_heads=4, ffn=False))
    for injector in (unit.to_high, unit.to_low):
        nn.init.ones_(injector.ca_gamma)
    high, low = torch.randn(1, 35, 32), torch.randn(1, 12, 48)

    new_high, _ = unit(high, low, (5, 7), (4, 3))

    injector = unit.to_high
    found = injector.attn(injector.query_norm(high), injector.feat_norm(unit.proj_to_high(low)), (5, 7), (4, 3))
    torch.testing.assert_close(new_high, high + found)
    assert not [name for name in unit.state_dict() if "ffn" in name]


def test_a_cnn_builds_no_layer_that_the_head_does_not_ask_for():
    spec = CNNSpec(arch="resnet18", resolution=64)

    fine, whole = (build_backbone(spec, wish, pretrained=False) for wish in (Maps((4,)), Maps()))
    (map_,) = fine(torch.rand(1, 3, 64, 64))
    map_.mean().backward()

    assert (map_.shape[1], fine.out_channels) == (64, [64])
    assert all(parameter.grad is not None for parameter in fine.parameters())
    assert sum(p.numel() for p in fine.parameters()) < 0.02 * sum(p.numel() for p in whole.parameters())
