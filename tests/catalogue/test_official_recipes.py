"""Every row with a released configuration says what that says, of data, scales, batch, rates, schedule and length."""

import json
from pathlib import Path

import pytest

from piip.catalogue.rows import all_rows
from piip.spec import CNNSpec

# configuration -> what the official code at 7a8eceb reads from it; test_scale is long side, short side
OFFICIAL = json.loads((Path(__file__).parent.parent / "golden" / "official_recipes.json").read_text())
RELEASED = {row.paper.config: row for row in all_rows().values() if row.paper and row.paper.config}
DETECTION = [config for config in OFFICIAL if OFFICIAL[config]["task"] == "det"]
TRAINED_ON_CROPS = [config for config in DETECTION if OFFICIAL[config]["train_scale"] is None]
"""Of several scales (DETR's AutoAugment)."""


def branches_of(config):
    backbone = RELEASED[config].model.backbone
    return [backbone] if isinstance(backbone, CNNSpec) else backbone.branches


def test_every_released_configuration_is_a_row():
    assert set(OFFICIAL) <= set(RELEASED)
    assert len(OFFICIAL) == 41


@pytest.mark.parametrize("config", OFFICIAL)
def test_branches_see_the_resolutions_and_pixels_they_were_released_with(config):
    facts, branches = OFFICIAL[config], branches_of(config)

    assert [branch.resolution for branch in reversed(branches)] == facts["resolutions"]
    for branch in branches:
        assert (list(branch.mean), list(branch.std)) == (facts["mean"], facts["std"])


@pytest.mark.parametrize("config", OFFICIAL)
def test_batch_and_rates_are_the_released_ones(config):
    facts, row = OFFICIAL[config], RELEASED[config]
    # two images on 8 GPUs at 1e-4, on 16 at 2e-4 (detection); two on 8 (segmentation); 128 on 8 (classification)
    gpus = 16 if facts["lr"] == 2e-4 else 8

    assert row.train.batch_size == facts["images_per_gpu"] * gpus
    assert row.optim.lr == facts["lr"]
    assert list(row.optim.betas) == facts["betas"]
    assert row.optim.weight_decay == facts["weight_decay"]
    assert row.optim.layer_decay == (facts["layer_decay"] or 1.0)
    # under DeepSpeed the official code never clips, though DINO's configurations ask for it
    assert row.optim.clip_norm is None


@pytest.mark.parametrize("config", OFFICIAL)
def test_a_training_is_as_long_as_the_released_one(config):
    facts, train = OFFICIAL[config], RELEASED[config].train

    assert (train.steps or train.epochs) == facts.get("max_iters", facts.get("max_epochs"))


@pytest.mark.parametrize("config", [config for config in OFFICIAL if "lr_config" in OFFICIAL[config]])
def test_the_rate_falls_as_released(config):
    facts, optim = OFFICIAL[config]["lr_config"], RELEASED[config].optim

    assert optim.schedule == facts["policy"]
    assert (optim.warmup_steps, optim.warmup_ratio) == (facts["warmup_iters"], facts["warmup_ratio"])
    if facts["policy"] == "step":
        ends = [part * OFFICIAL[config]["max_epochs"] for part in optim.milestones]
        assert ends == pytest.approx(facts["step"])
    else:
        assert (facts["power"], facts["min_lr"]) == (1.0, 0.0)


@pytest.mark.parametrize("config", DETECTION)
def test_images_are_scored_at_the_released_scale_and_padded_as_much(config):
    facts, row = OFFICIAL[config], RELEASED[config]

    assert list(row.data.limits(row.model.backbone.resolution, training=False)) == facts["test_scale"]
    assert row.data.pad_multiple == facts["pad_multiple"]


@pytest.mark.parametrize("config", [config for config in DETECTION if config not in TRAINED_ON_CROPS])
def test_images_are_trained_on_at_the_released_scale(config):
    row = RELEASED[config]

    assert list(row.data.limits(row.model.backbone.resolution, training=True)) == OFFICIAL[config]["train_scale"]


LONGER = {"dino_4scale_deit_384_sbl_1792_1120_672_fpn_3x_coco_bs32_ms": 1.75}
"""Configuration -> factor on the lengths below, which are those of a first branch of 1024 pixels; those of LH6B are 1.5 times as long."""


@pytest.mark.parametrize("config", TRAINED_ON_CROPS)
def test_rows_of_crops_draw_the_released_sizes(config):
    factor = LONGER.get(config, 1.5 if "lh6b" in config else 1)
    row = RELEASED[config]
    recipe = row.data.recipe

    assert config.endswith(("_ms", "_ms_speedup"))
    assert (recipe.kind, recipe.empty_crops, recipe.first_long) == ("crops", True, None)
    assert recipe.short == tuple(side * factor for side in range(480, 801, 32))
    assert recipe.first_short == (400 * factor, 500 * factor, 600 * factor)
    assert recipe.crop == (384 * factor, 600 * factor)
    assert recipe.last_crop == row.model.backbone.resolution == 1024 * factor
    assert recipe.long == OFFICIAL[config]["test_scale"][0]


def test_all_other_rows_train_at_one_scale():
    assert len(TRAINED_ON_CROPS) == 7
    for config in set(DETECTION) - set(TRAINED_ON_CROPS):
        assert (RELEASED[config].data.recipe, RELEASED[config].data.train_scales) == (None, (1.0,))


@pytest.mark.parametrize("config", [config for config in OFFICIAL if OFFICIAL[config]["task"] == "seg"])
def test_segmentation_crops_and_scales_are_the_released_ones(config):
    row = RELEASED[config]

    assert row.model.backbone.resolution == OFFICIAL[config]["crop"]
    assert list(row.data.train_ratio) == OFFICIAL[config]["train_ratio"]
