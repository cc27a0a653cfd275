"""InternImage's published rows: rates, decay, length and images of the released configurations, on whole networks without memory."""

from functools import cache

import pytest
from test_internimage import golden

from piip.catalogue.rows import all_rows
from piip.counting.meta import on_meta
from piip.models import build_model
from piip.spec.recipes import CropsSpec, ScalesSpec
from piip.training.optim import build_optimizer, distances_of
from piip.weights.names.mmdet import official_name

ROWS = {name: row for name, row in all_rows().items() if "internimage" in name and row.data.name != "demo"}
GROUPS = {
    "mask_T": "mask_rcnn_internimage_t_1333_1x",
    "cascade_L_1x": "cascade_mask_rcnn_internimage_l_1333_1x",
    "cascade_L_3x": "cascade_mask_rcnn_internimage_l_1333_3x",
    "dino_T": "dino_internimage_t_1333_1x",
    "dino_H": "dino_internimage_h_2000_20k",
}
"""The official constructor's recipe -> row."""


@cache
def network(model):
    with on_meta():
        return build_model(model, pretrained=False)


def groups_of(row, groups="internimage"):
    """Official name -> scale of the rate, whether it decays; of our parameters."""
    factor = row.optim.offset_rate if groups == "internimage" else 1
    model, optim = network(row.model), row.optim.override({"groups": groups, "offset_rate": factor})
    names = {id(p): official_name(name, row.model) for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group["lr_scale"], group["weight_decay"] > 0)
        for group in build_optimizer(model, optim, distances_of(model, optim)).param_groups
        for p in group["params"]
    }


@pytest.mark.parametrize("recipe", GROUPS)
def test_layers_learn_and_decay_as_released(recipe):
    row, wanted = ROWS[GROUPS[recipe]], golden()["groups"][recipe]

    ours = groups_of(row)

    common = [name for name in wanted["scales"] if name in ours]  # it lists a few tensors of other heads, too
    assert sum(name.startswith("backbone.") for name in common) == sum(name.startswith("backbone.") for name in ours)
    assert ("bbox_head.transformer.level_embeds" in common) == recipe.startswith("dino")
    for name in common:
        assert ours[name] == (pytest.approx(wanted["scales"][name], rel=1e-9), name in wanted["decays"]), name


def test_groups_as_meant_let_level_embeddings_learn_as_the_head_and_its_offsets_decay():
    embeds, offsets = (
        "bbox_head.transformer.level_embeds",
        "bbox_head.transformer.encoder.layers.0.attentions.0.sampling_offsets.weight",
    )

    released, meant = (groups_of(ROWS["dino_internimage_h_2000_20k"], kind) for kind in ("internimage", "corrected"))

    assert (released[embeds], released[offsets]) == ((pytest.approx(0.94**51), True), (1e-3, False))
    assert (meant[embeds], meant[offsets]) == ((1, True), (1, True))


def test_the_slow_backbone_learns_at_a_tenth_of_the_rate():
    row = ROWS["dino_internimage_l_1333_slow_backbone_1x"]

    groups = groups_of(row, row.optim.groups)
    found = {(name.startswith("backbone."), row.optim.lr * scale, decays) for name, (scale, decays) in groups.items()}

    assert found == {(True, 1e-5, True), (False, 1e-4, True)}


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("mask_rcnn_internimage_t_1333_1x", (16, 12, 1e-4, 0.05, 1.0, None, 0.2, None)),
        ("mask_rcnn_internimage_b_1333_3x", (16, 36, 1e-4, 0.05, 1.0, None, 0.4, None)),
        ("cascade_mask_rcnn_internimage_xl_1333_1x", (16, 12, 1e-4, 0.05, 0.94, None, 0.4, None)),
        ("cascade_mask_rcnn_internimage_xl_1333_3x", (64, 36, 2e-4, 0.05, 0.9, None, 0.6, 0.9999)),
        ("dino_internimage_t_1333_1x", (16, 12, 1e-4, 1e-4, 0.9, 0.1, 0.2, None)),
        ("dino_internimage_l_1333_slow_backbone_1x", (16, 12, 1e-5, 0.05, 1.0, 0.1, 0.4, None)),
    ],
)
def test_recipes_are_the_released_ones(part, said):
    row = ROWS[part]

    optim, train = row.optim, row.train
    assert (
        train.batch_size, train.epochs, optim.lr, optim.weight_decay, optim.layer_decay, optim.clip_norm, row.model.backbone.drop_path,
        train.ema,
    ) == said  # fmt: skip
    assert (optim.warmup_steps, optim.warmup_ratio, row.data.pad_multiple) == (500, 1e-3, 32)
    assert row.data.limits(1333, training=False) == (1333, 800)


def test_three_times_as_long_is_trained_on_crops():
    crops = {name: row.data.recipe for name, row in ROWS.items() if row.data.recipe}

    assert {name for name in ROWS if name.endswith("_3x") or (name.startswith("dino") and "1333" in name)} <= set(crops)
    assert {recipe for name, recipe in crops.items() if name.endswith("_3x")} == {CropsSpec()}
    assert {recipe for name, recipe in crops.items() if name.endswith("_1x")} == {
        CropsSpec(first_long=4200, empty_crops=False)
    }


def test_the_largest_see_a_long_side_of_2000():
    row = ROWS["dino_internimage_g_2000_20k"]

    assert row.data.recipe == ScalesSpec(short=(600, 1800), between=True, long=2000)
    assert row.data.limits(2000, training=False) == (2000, 1000)
    assert (row.train.steps, row.optim.schedule, row.model.head.denoising_queries) == (20_000, "constant", 1000)
    assert ROWS["dino_internimage_t_1333_1x"].model.head.max_detections == 100


@pytest.mark.parametrize(
    ("name", "params"),
    # the golden's totals of T and L; backbone, neck and head of H and G as the facts list them
    [
        ("dino_internimage_t_1333_1x", 48_736_828),
        ("dino_internimage_l_1333_slow_backbone_1x", 241_033_214),
        ("dino_internimage_h_2000_20k", 1_073_122_480 + 7_047_168 + 18_556_236),
        ("dino_internimage_g_2000_20k", 3_052_781_184 + 11_274_240 + 18_556_236),
    ],
)
def test_dinos_have_the_official_parameters(name, params):
    row = ROWS[name]

    count = sum(p.numel() for p in network(row.model).parameters())

    assert count == params
    assert count / 1e6 == pytest.approx(row.paper.params_m, rel=6e-3)
