import re

import pytest

from piip.presets import (
    DEIT,
    MPVIT,
    PICO,
    classifier_pico,
    detectron2_adamw,
    mask_rcnn_1x,
    mask_rcnn_pico,
    pico,
    piip,
)
from piip.spec import CNNSpec, RetinaNetSpec


def test_letters_and_resolutions_pair_up_from_the_largest_image():
    backbone = piip("TSB", (1120, 896, 448), window=14)

    assert [(b.arch, b.resolution, b.window) for b in backbone.branches] == [
        ("deit_tiny_patch16_224.fb_in1k", 1120, 14),
        ("deit3_small_patch16_224.fb_in22k_ft_in1k", 896, 14),
        ("deit3_base_patch16_224.fb_in22k_ft_in1k", 448, 14),
    ]
    assert backbone.resolution == 1120
    assert backbone.label == "tsb"


def test_window_28_is_for_every_branch_of_sbl():
    assert {b.window for b in piip("SBL", (1120, 672, 448), window=28).branches} == {28}


@pytest.mark.parametrize("sides", [(1120, 896), (1120, 896, 448, 224), ()])
def test_as_many_resolutions_as_letters(sides):
    with pytest.raises(
        ValueError, match=rf"PIIP-TSB has 3 branches but {len(sides)} resolutions: {re.escape(str(sides))}"
    ):
        piip("TSB", sides)


def test_an_unknown_letter_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"no branch \['X'\] in this family; it has \['B', 'L', 'S', 'T'\]"):
        piip("TXB", (1120, 896, 448))
    with pytest.raises(ValueError, match=r"no branch \['L'\] in this family; it has \['B', 'S', 'T'\]"):
        pico("TL", (256, 128))


def test_the_order_of_branches_is_the_papers():
    with pytest.raises(ValueError, match=r"branches go from high to low resolution .* got \[448, 896, 1120\]"):
        piip("TSB", (448, 896, 1120))


def test_the_first_branch_is_the_smallest_network():
    assert list(DEIT) == ["T", "S", "B", "L"]
    assert list(PICO) == ["T", "S", "B"]


def test_pico_can_start_from_nothing():
    assert all(b.pretrained for b in pico("TSB", (256, 192, 128)).branches)
    assert not any(b.pretrained for b in pico("TSB", (256, 192, 128), pretrained=False).branches)


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        (piip("TSB", (1120, 896, 448)), "piip_tsb_1120_896_448"),
        (piip("TSBL", (1344, 896, 672, 448)), "piip_tsbl_1344_896_672_448"),
        (piip("B", (1024,)), "vit_b_1024"),
        (pico("TB", (256, 128)), "piip_tb_256_128"),
        (CNNSpec(arch="resnet18", resolution=256), "resnet18_256"),
        (CNNSpec(arch="resnet50.a1_in1k", resolution=1333), "resnet50_1333"),
    ],
)
def test_names_are_made_of_what_is_inside(backbone, name):
    assert backbone.row_name == name
    assert mask_rcnn_1x(backbone).name == f"mask_rcnn_{name}_1x"
    assert mask_rcnn_pico(backbone, steps=10).name == f"mask_rcnn_{name}_pico10"


def test_one_x_is_the_papers_recipe():
    row = mask_rcnn_1x(piip("TSB", (1120, 896, 448)))

    assert (row.train.epochs, row.train.batch_size, row.train.precision) == (12, 16, "bf16")
    assert (row.optim.lr, row.optim.layer_decay, row.optim.weight_decay, row.optim.warmup_steps) == (
        1e-4,
        0.85,
        0.05,
        500,
    )
    assert row.optim.milestones == (8 / 12, 11 / 12)
    # 1120 -> short side at most 672: the official configs' (1120, 672)
    assert int(1120 * row.data.short_ratio) == 672


@pytest.mark.parametrize(("times", "steps", "falls"), [(1, 90_000, [60_000, 80_000]), (3, 270_000, [210_000, 250_000])])
def test_mpvit_is_trained_as_published(times, steps, falls):
    row = detectron2_adamw(RetinaNetSpec(), MPVIT["S"], times=times)

    assert (row.train.steps, row.train.batch_size, row.model.backbone.drop_path) == (steps, 16, 0.2)
    assert [round(part * steps) for part in row.optim.milestones] == falls
    assert (row.optim.lr, row.optim.weight_decay, row.optim.clip_norm, row.optim.groups) == (1e-4, 0.05, 1.0, "uniform")
    assert (row.optim.warmup_steps, row.optim.warmup_ratio) == (1000, 0.01)
    # short side 800, long side at most 1333, padded to the coarsest stride
    assert (row.data.limits(1333, training=False), row.data.pad_multiple) == ((1333, 800), 32)
    assert (row.data.recipe is None) == (times == 1)
    if row.data.recipe:
        assert (row.data.recipe.short, row.data.recipe.first_short) == (tuple(range(480, 801, 32)), (400, 500, 600))
        assert row.data.recipe.crop == (384, 600)


def test_what_is_no_piip_is_classified_by_its_map():
    reads = {b.kind: classifier_pico(b, steps=1).model.head.reads for b in (pico("T", (64,)), MPVIT["T"])}

    assert reads == {"piip": "tokens", "mpvit": "map"}


def test_the_peer_differs_from_a_pico_piip_in_the_backbone_alone():
    ours, peer = (
        mask_rcnn_pico(b, steps=140) for b in (pico("TB", (256, 128)), CNNSpec(arch="resnet18", resolution=256))
    )

    assert ours.model.head == peer.model.head
    assert (ours.data, ours.optim, ours.train) == (peer.data, peer.optim, peer.train)
