import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from piip import presets
from piip.models import build_model
from piip.models.backbones.piip import PIIP
from piip.models.branches.vit import Branch
from piip.spec import BranchSpec, InteractionSpec, OptimSpec, PIIPSpec
from piip.training.optim import build_optimizer, schedule, set_lr


def groups_by_name(model, optimizer):
    names = {p: n for n, p in model.named_parameters()}
    return {names[p]: group for group in optimizer.param_groups for p in group["params"]}


@pytest.fixture
def two_blocks():
    """Two blocks under a head of one class that keeps one scalar weight, as the merge does."""
    model = nn.ModuleDict({"first": nn.Linear(2, 2), "second": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    model["class"] = nn.Linear(2, 1)
    model.register_parameter("scale", nn.Parameter(torch.ones(1)))
    return model


DISTANCES = {"first.weight": 2, "first.bias": 2, "second.weight": 1, "second.bias": 1}


def test_blocks_learn_slower_the_further_they_are_from_the_end(two_blocks):
    optimizer = build_optimizer(two_blocks, OptimSpec(lr=0.1, layer_decay=0.5), DISTANCES)

    rates = {name: group["lr"] for name, group in groups_by_name(two_blocks, optimizer).items()}

    # 0.1 * 0.5 ** 2, 0.1 * 0.5 ** 1, 0.1 * 0.5 ** 0
    assert rates == pytest.approx(
        {"first.weight": 0.025, "first.bias": 0.025, "second.weight": 0.05, "second.bias": 0.05,
         "norm.weight": 0.1, "norm.bias": 0.1, "class.weight": 0.1, "class.bias": 0.1, "scale": 0.1}
    )  # fmt: skip
    # fastest first: ZeRO's shards are kept under the number of their group
    assert [group["lr_scale"] for group in optimizer.param_groups] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_weight_decay_spares_biases_and_norms_but_not_the_scalar_weights_of_the_merge(two_blocks):
    optimizer = build_optimizer(two_blocks, OptimSpec(weight_decay=0.05), DISTANCES)

    decayed = {name for name, group in groups_by_name(two_blocks, optimizer).items() if group["weight_decay"]}

    assert decayed == {"first.weight", "second.weight", "class.weight", "scale"}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.05}


def test_frozen_parameters_are_left_out(two_blocks):
    two_blocks["first"].requires_grad_(False)

    optimizer = build_optimizer(two_blocks, OptimSpec(betas=(0.8, 0.95)), DISTANCES)

    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.95)}
    assert not {"first.weight", "first.bias"} & set(groups_by_name(two_blocks, optimizer))


def test_every_parameter_of_a_detector_is_in_one_group_and_only_branches_learn_slower():
    spec = presets.mask_rcnn_pico(presets.pico("TB", (128, 64), pretrained=False), steps=1)
    model = build_model(spec.model)
    distances = {f"backbone.{name}": distance for name, distance in model.backbone.layer_ids().items()}

    optimizer = build_optimizer(model, OptimSpec(lr=1.0, layer_decay=0.5), distances)

    groups = groups_by_name(model, optimizer)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters())) == len(groups)
    assert {name.startswith("backbone.branches.") for name, group in groups.items() if group["lr"] < 1} == {True}
    # pico branches have 6 blocks: the last one is at distance 1, the first at 6, the embedding at 7
    assert groups["backbone.branches.0.blocks.5.norm1.weight"]["lr"] == 0.5
    assert groups["backbone.branches.1.blocks.0.norm1.weight"]["lr"] == 0.5**6
    assert groups["backbone.branches.0.pos_embed"]["lr"] == 0.5**7
    assert groups["backbone.branches.0.pos_embed"]["weight_decay"] > 0


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (1, 0.28),  # 0.1 + 0.9 * 1/5
        (4, 0.82),  # 0.1 + 0.9 * 4/5
        (5, 1.0),
        (6, 1.0),
        (66, 1.0),  # 8/12 of 100 is 66.7
        (67, 0.1),
        (91, 0.1),  # 11/12 of 100 is 91.7
        (92, 0.01),
        (100, 0.01),
    ],
)
def test_steps_divide_the_rate_by_ten_at_eight_and_eleven_twelfths(step, factor):
    spec = OptimSpec(warmup_steps=5, warmup_ratio=0.1, schedule="step")
    assert schedule(spec, step, 100) == pytest.approx(factor)


def test_a_step_that_ends_a_twelfth_belongs_to_it():
    spec = OptimSpec(warmup_steps=0, schedule="step")

    assert [schedule(spec, step, 12) for step in (8, 9, 11, 12)] == pytest.approx([1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (10, 1.0),  # end of warm-up
        (40, 0.75),  # (1 + cos(pi * 30/90)) / 2
        (55, 0.5),  # half way from 10 to 100
        (100, 0.0),
    ],
)
def test_cosine_falls_from_the_end_of_the_warm_up_to_zero(step, factor):
    spec = OptimSpec(warmup_steps=10, schedule="cosine")
    assert schedule(spec, step, 100) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize(
    ("step", "rates"),
    [
        (10, (0.42 * 3e-5, 0.42 * 3e-4, 0.21 * 3e-5)),  # 10 of 25 steps of warm-up: 1/30 + 29/30 * 0.4
        (25, (3e-5, 3e-4, 1.5e-5)),
        (100, (1e-5, 1e-5, 5e-6)),  # the first two end at the same rate, one that decays by layer below it
    ],
)
def test_warm_up_may_be_a_part_of_the_training_and_cosine_ends_at_a_rate(step, rates):
    weights = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    scales = zip(weights, (1, 10, 0.5), strict=True)
    optimizer = torch.optim.SGD([{"params": [w], "lr_scale": s} for w, s in scales], lr=1)
    spec = OptimSpec(lr=3e-5, warmup_part=0.25, warmup_ratio=1 / 30, schedule="cosine", min_lr=1e-5)

    base = set_lr(optimizer, spec, step, 100)

    found = [group["lr"] for group in optimizer.param_groups]
    assert found == pytest.approx(rates)
    assert base == pytest.approx(rates[0])


def test_a_part_of_the_training_is_rounded_to_steps():
    spec = OptimSpec(warmup_part=0.25, warmup_ratio=0, schedule="constant")

    assert [schedule(spec, step, 11) for step in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])  # 2.75 of 11 are 3


def test_a_least_rate_is_for_a_schedule_that_falls_to_it():
    with pytest.raises(
        ValueError, match=r"min_lr 0.01 is where schedule 'cosine' ends, .* got schedule 'step', lr 0.1"
    ):
        OptimSpec(lr=0.1, min_lr=0.01)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (1, 0.28),  # 0.1 + 0.9 * 1/5, and nothing has fallen yet
        (5, 0.96),  # warm; 4 of 100 steps are done
        (51, 0.5),
        (100, 0.01),  # the last step: 99 of 100 are done
    ],
)
def test_poly_falls_straight_from_the_first_step_on(step, factor):
    spec = OptimSpec(warmup_steps=5, warmup_ratio=0.1, schedule="poly")
    assert schedule(spec, step, 100) == pytest.approx(factor)


@pytest.mark.parametrize("name", ["step", "cosine", "poly", "constant"])
def test_without_warm_up_the_first_step_learns_at_the_full_rate(name):
    spec = OptimSpec(warmup_steps=0, schedule=name)
    # cosine has gone 1/1000 of its way: (1 + cos(pi / 1000)) / 2
    assert schedule(spec, 1, 1000) == pytest.approx((1 + math.cos(math.pi / 1000)) / 2 if name == "cosine" else 1.0)


def test_constant_stays():
    spec = OptimSpec(warmup_steps=0, schedule="constant")
    assert {schedule(spec, step, 10) for step in range(1, 11)} == {1.0}


def test_the_schedule_scales_every_group_alike(two_blocks):
    spec = OptimSpec(lr=0.1, layer_decay=0.5, warmup_steps=4, warmup_ratio=0.0, schedule="constant")
    optimizer = build_optimizer(two_blocks, spec, DISTANCES)

    base = set_lr(optimizer, spec, 1, 100)

    assert base == pytest.approx(0.025)  # 0.1 * 1/4
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.00625, 0.0125, 0.025])


def backbone_groups(groups: str, layer_decay: float = 0.5):
    spec = presets.mask_rcnn_pico(presets.pico("TB", (128, 64), pretrained=False), steps=1)
    model = build_model(spec.model)
    distances = {f"backbone.{n}": d for n, d in model.backbone.layer_ids(exact=groups == "corrected").items()}
    optimizer = build_optimizer(model, OptimSpec(lr=1.0, layer_decay=layer_decay, groups=groups), distances)
    return groups_by_name(model, optimizer)


def test_corrected_groups_spare_every_kind_of_position_and_token():
    shapes = {
        "pos_embed": (1, 4, 2),
        "cls_token": (1, 1, 2),
        "frame_embed": (1, 1, 2),
        "relative_position_bias_table": (9, 2),
    }
    model = nn.ParameterDict({name: torch.zeros(shape) for name, shape in {**shapes, "weight": (2, 2)}.items()})

    for groups, decayed in (("released", {*shapes, "weight"}), ("corrected", {"weight"})):
        found = groups_by_name(model, build_optimizer(model, OptimSpec(groups=groups), {}))
        assert {name for name, group in found.items() if group["weight_decay"]} == decayed


def test_corrected_groups_do_not_decay_positions_and_merge_weights():
    released, corrected = backbone_groups("released"), backbone_groups("corrected")

    changed = {name for name in released if released[name]["weight_decay"] != corrected[name]["weight_decay"]}

    assert changed == {"backbone.branches.0.pos_embed", "backbone.branches.1.pos_embed",
                       "backbone.merge.weights.0", "backbone.merge.weights.1"}  # fmt: skip
    assert {name: group["lr"] for name, group in released.items()} == pytest.approx(
        {name: group["lr"] for name, group in corrected.items()}
    )


def test_classification_decays_everything_and_learns_ten_times_faster_what_was_not_pretrained():
    pretrained = {
        "backbone.branches.0",
        "backbone.body.stem",
        "head.own.0",
    }  # separate heads have their branch's classifier
    new = {"backbone.interactions.0", "backbone.merge", "head.merged", "head.head"}
    model = nn.Module()
    for name in pretrained | new:
        part = model
        for word in name.split("."):
            part.add_module(word, part._modules.get(word) or nn.Module())
            part = part.get_submodule(word)
        part.add_module("norm", nn.LayerNorm(2))

    groups = groups_by_name(model, build_optimizer(model, OptimSpec(lr=1.0, groups="classification"), {}))

    assert {group["weight_decay"] for group in groups.values()} == {0.05}
    fast = {name.rsplit(".", 2)[0]: group["lr"] for name, group in groups.items()}
    assert fast == dict.fromkeys(pretrained, 1.0) | dict.fromkeys(new, 10.0)


@pytest.mark.parametrize(("exact", "distance"), [(False, 6), (True, 5.5)])
def test_fractional_steps_are_rounded_down_as_released_and_exact_as_meant(exact, distance):
    # 12 blocks of DeiT beside 18 of another: steps of 1.5; block 8 of 12 ends at 13.5 of 18: 19 - 13, 19 - 13.5
    branches = [
        Branch(
            VisionTransformer(img_size=32, embed_dim=32, depth=depth, num_heads=2, class_token=False, global_pool="avg")
        )
        for depth in (12, 18)
    ]
    specs = tuple(BranchSpec(arch="deit", resolution=side) for side in (64, 32))
    model = PIIP(branches, PIIPSpec(branches=specs, interaction=InteractionSpec(count=2, num_heads=4)))

    assert model.layer_ids(exact=exact)["branches.0.blocks.8.norm1.weight"] == distance
    assert model.layer_ids(exact=exact)["branches.1.blocks.8.norm1.weight"] == 10


def test_rates_grow_with_the_batch_where_the_spec_says_for_which_they_are():
    optim = OptimSpec(lr=1e-4, lr_per=16, schedule="cosine", min_lr=1e-6)

    scaled = optim.at(4)

    assert (scaled.lr, scaled.min_lr) == pytest.approx((2.5e-5, 2.5e-7))
    assert optim.at(16).lr == optim.lr
    assert OptimSpec(lr=1e-4).at(4) == OptimSpec(lr=1e-4)


def test_uniform_groups_are_one_with_decay_on_everything(two_blocks):
    optimizer = build_optimizer(two_blocks, OptimSpec(groups="uniform", layer_decay=0.5), {"first.weight": 2})

    (group,) = optimizer.param_groups
    assert (group["lr_scale"], group["weight_decay"]) == (1.0, 0.05)
    assert len(group["params"]) == len(list(two_blocks.parameters()))
