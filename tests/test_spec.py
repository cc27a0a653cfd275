import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piip.presets import detector_pico, mask_rcnn_1x, mask_rcnn_pico, pico, piip
from piip.spec import (
    Ade20kSpec,
    BranchSpec,
    CNNSpec,
    CocoSpec,
    ExperimentSpec,
    ImageNetSpec,
    KeypointsSpec,
    PaperResult,
    YoloSpec,
)

TSB = mask_rcnn_1x(piip("TSB", (1120, 896, 448)), PaperResult(box_ap=43.6, mask_ap=38.7))
PICO_TB = mask_rcnn_pico(pico("TB", (256, 128)), steps=140)
PEER = mask_rcnn_pico(CNNSpec(arch="resnet18", resolution=256), steps=140)
SPECS = pytest.mark.parametrize("spec", [TSB, PICO_TB, PEER], ids=lambda spec: spec.name)
GOLDEN = sorted((Path(__file__).parent / "golden" / "specs").glob("*.json"))

floats = st.floats(min_value=1e-9, max_value=0.99, allow_nan=False)
counts = st.integers(min_value=1, max_value=10**6)
OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "optim.lr": floats,
        "optim.betas": st.tuples(floats, floats),
        "optim.milestones": st.lists(floats, max_size=4).map(tuple),
        "optim.clip_norm": st.none() | floats,
        "train.batch_size": counts,
        "train.steps": st.none() | counts,
        "train.epochs": floats,
        "train.seed": st.integers(min_value=0, max_value=10**12),
        "train.zero_stage": st.sampled_from([0, 1, 2, 3]),
        "train.precision": st.sampled_from(["fp32", "bf16"]),
        "model.backbone.branches.0.mean": st.tuples(floats, floats, floats),
        "data.broken_images": st.sampled_from(["refuse", "skip"]),
        "model.head.num_classes": counts,
        "model.backbone.label": st.text(max_size=5),
        "model.backbone.branches.0.window": st.none() | counts,
        "model.backbone.branches.2.drop_path": floats,
        "speed.kernel": st.sampled_from(["auto", "cpp", "cuda", "triton", "reference"]),
    },
)


@SPECS
def test_a_spec_comes_back_from_json_as_it_was(spec):
    assert ExperimentSpec.model_validate_json(spec.model_dump_json()) == spec
    assert ExperimentSpec.model_validate(json.loads(spec.model_dump_json())) == spec


@given(OVERRIDES)
@settings(max_examples=60, deadline=None)
def test_any_variant_comes_back_from_json_as_it_was(changes):
    variant = TSB.override(changes)

    again = ExperimentSpec.model_validate_json(variant.model_dump_json())

    assert again == variant
    assert again.digest == variant.digest


@given(OVERRIDES)
@settings(max_examples=60, deadline=None)
def test_an_override_changes_the_named_fields_and_no_other(changes):
    variant = TSB.override(changes)

    before, after = TSB.flat(), variant.flat()
    touched = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}

    assert all(any(f"{name}.".startswith(f"{path}.") for path in changes) for name in touched)
    for path, value in changes.items():
        if not isinstance(value, tuple):
            assert after[path] == value


@SPECS
def test_every_flat_name_is_one_that_override_takes(spec):
    assert spec.override(spec.flat()) == spec


def test_flat_names_are_dotted_and_count_branches():
    flat = TSB.flat()

    assert flat["optim.lr"] == 1e-4
    assert [flat[f"model.backbone.branches.{i}.resolution"] for i in range(3)] == [1120, 896, 448]
    assert flat["optim.milestones.1"] == 11 / 12
    assert all(value is None or isinstance(value, str | int | float | bool) for value in flat.values())


def test_a_part_can_be_replaced_whole():
    variant = TSB.override({"model.backbone": {"kind": "cnn", "arch": "resnet50", "resolution": 1333}})

    assert variant.model.backbone == CNNSpec(arch="resnet50", resolution=1333)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("optim.LR", "optim.lr"),
        ("optim.weightdecay", "optim.weight_decay"),
        ("train.batchsize", "train.batch_size"),
        ("model.backbone.branches.3.resolution", "model.backbone.branches.2.resolution"),
        ("model.backbone.interactions.count", "model.backbone.interaction.count"),
        ("data.flip.probability", "data.flip"),
        ("optim.learning_rate", "optim.lr"),
        ("learning_rate", "optim.lr"),
        ("optim.wd", "optim.weight_decay"),
        ("optim.weights_decay", "optim.weight_decay"),
        ("batch", "train.batch_size"),
        ("num_epochs", "train.epochs"),
        ("optim.epochs", "train.epochs"),
        ("num_classes", "model.head.num_classes"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(wrong, nearest):
    with pytest.raises(ValueError, match="no field") as failure:
        TSB.override({wrong: 1})

    assert repr(wrong) in str(failure.value)
    assert f"Nearest: {nearest!r}" in str(failure.value)


@pytest.mark.parametrize(
    ("wrong", "fields"),
    [
        ("colour", "Fields: name, model, data, optim"),
        ("optim.momentum", "Fields of optim: lr, betas"),
        ("model.head.foo", "Fields of model.head: num_classes, fpn_channels"),
    ],
)
def test_a_name_like_nothing_is_answered_with_what_there_is(wrong, fields):
    with pytest.raises(ValueError, match=f"no field '{wrong}' in ExperimentSpec. {fields}"):
        TSB.override({wrong: 1})


def test_a_wrong_name_is_answered_with_the_fields_beside_the_nearest():
    with pytest.raises(ValueError, match="Fields of train: batch_size, micro_batch, steps, epochs, precision"):
        TSB.override({"epoch": 3})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optim.lr": -1}, "optim.lr: Input should be greater than 0 (got -1)"),
        (
            {"optim.lr": "fast"},
            "optim.lr: Input should be a valid number, unable to parse string as a number (got 'fast')",
        ),
        ({"train.engine": "horovod"}, "train.engine: Input should be 'deepspeed' or 'ddp' (got 'horovod')"),
        ({"optim.lr": float("nan")}, "optim.lr: Input should be a finite number"),
        ({"name": "Has Spaces"}, "name: String should match pattern"),
        ({"train.micro_batch": 5}, "micro_batch 5 does not divide batch_size 16. Fits: [1, 2, 4, 8, 16]"),
        (
            {"model.backbone.branches.2.resolution": 8},
            "branches.2.resolution: Input should be greater than or equal to 32 (got 8)",
        ),
        (
            {"model.backbone.branches.0.resolution": 448, "model.backbone.branches.2.resolution": 1120},
            "branches go from high to low resolution (the smallest model sees the largest image), got [448, 896, 1120]",
        ),
    ],
)
def test_a_refused_value_says_what_was_given_and_wanted(changes, said):
    with pytest.raises(ValueError, match="refused") as failure:
        TSB.override(changes)

    assert said in str(failure.value)
    assert len(str(failure.value).splitlines()) == 1
    assert len(str(failure.value)) < 400  # the field, not the whole tree around it


def test_unknown_fields_are_refused():
    document = json.loads(TSB.model_dump_json())
    document["optim"]["momentum"] = 0.9

    with pytest.raises(ValueError, match=r"optim\.momentum"):
        ExperimentSpec.model_validate_json(json.dumps(document))


def test_a_spec_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        TSB.optim.lr = 1.0  # pyright: ignore


def test_compiled_regions_need_whole_weights():
    with pytest.raises(
        ValueError, match=r"speed\.compile 'blocks' reads a block's weights, which train\.zero_stage 3 shards"
    ):
        TSB.override({"speed.compile": "blocks", "train.zero_stage": 3})


@pytest.mark.parametrize("attention", ["flash", "varlen"])
def test_attention_that_takes_bf16_is_refused_in_fp32(attention):
    with pytest.raises(
        ValueError, match=rf"refused\. speed\.attention '{attention}' takes bf16, train\.precision is fp32"
    ):
        TSB.override({"speed.attention": attention, "train.precision": "fp32"})

    assert TSB.override({"speed.attention": attention, "train.precision": "bf16"}).speed.attention == attention


def test_captured_graphs_exclude_blocks_that_run_twice():
    captured, again = {"speed.compile": "cuda_graphs"}, "model.backbone.branches.1.checkpointing"

    with pytest.raises(
        ValueError, match=r"'cuda_graphs' .* model\.backbone\.branches\.1\.checkpointing runs it a second"
    ):
        TSB.override(captured | {again: True})

    assert TSB.override(captured | {again: False}).speed.compile == "cuda_graphs"
    assert TSB.override({"speed.compile": "blocks", again: True}).speed.compile == "blocks"


def test_the_digest_remembers_where_a_cosine_ends():
    cosine = TSB.override({"optim.schedule": "cosine"})

    assert cosine.override({"optim.min_lr": 1e-6}).digest != cosine.digest


def test_the_digest_forgets_what_does_not_change_numbers():
    forgotten = {
        "name": "another",
        "paper": None,
        "model.backbone.label": "x",
        "speed.kernel": "cpp",
        "speed.memory": "returned",
    }
    assert TSB.override(forgotten).digest == TSB.digest


@SPECS
def test_the_digest_remembers_everything_else(spec):
    other = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v * 0.5, type(None): lambda _: 1}
    unchanged = []
    for name, value in spec.flat().items():
        if (
            name in ("name", "speed.kernel", "speed.memory")
            or name.endswith((".kind", ".label"))
            or name.startswith("paper")
        ):
            continue
        if ".fpn" in name or name in (
            "optim.min_lr",
            "optim.offset_rate",
            "train.ema_warmup",
        ):  # cannot change alone: below
            continue
        if isinstance(value, str):
            words = {
                "broken_images": "skip",
                "schedule": "constant",
                "precision": {"fp32": "bf16", "bf16": "fp32"}.get(value),
            }
            words |= {"engine": "ddp", "drop_path_rule": "linear", "window_padding": "after_qkv"}
            words |= {
                "positions": "resolution",
                "activation": "gelu_tanh",
                "groups": "corrected",
                "dialect": "detectron2",
            }
            words |= {
                "compile": "blocks",
                "heads": "bf16",
                "layout": "contiguous",
                "windows": "padded",
                "interactions": "fp32",
                "attention": {"auto": "sdpa"}.get(value, "dense"),
            }
            words |= {"maps": "fpn_p7", "norm": "group", "stride_in": "3x3"}
            changed = words.get(name.rsplit(".", 1)[-1]) or f"{value}x"
        elif name.endswith(".weights"):
            changed = "deit.pth"
        elif name.endswith("resolution"):
            changed = value + 1 if ".branches.0." in name or ".branches." not in name else value - 1
        elif name in ("data.scale", "data.eval_scale"):
            changed = (64, 32)
        elif name == "data.recipe":
            changed = {"kind": "jitter"}
        elif name == "train.ema":
            changed = 0.5
        elif name == "data.views":
            changed = {"flip": True}
        elif name == "train.zero_stage":
            changed = 3 - value
        elif value == 0:
            changed = 0.25 if isinstance(value, float) else 1
        else:
            changed = other[type(value)](value)
        if spec.override({name: changed}).digest == spec.digest:
            unchanged.append(name)

    assert unchanged == []


@pytest.mark.parametrize(
    "changes",
    [
        {"fpn": "regular", "merge_after": [0, 1, 10]},
        {"branches.0.window": [14, 14, None]},
    ],
)
def test_the_digest_remembers_the_shape_of_the_network(changes):
    assert TSB.override({f"model.backbone.{name}": value for name, value in changes.items()}).digest != TSB.digest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"fpn": "regular"},
            "merges after 3 of the 12 interactions (and at the end), in rising order from 0, got merge_after=[]",
        ),
        ({"fpn": "regular", "merge_after": [0, 1, 12]}, "got merge_after=[0, 1, 12]; published: [0, 1, 10]"),
        ({"merge_after": [0, 1, 2]}, "merge_after=[0, 1, 2] is for fpn='regular', not 'simple'"),
        ({"input_branch": 3}, "input_branch 3 of 3 branches"),
        ({"branches.0.window": [14, 0]}, "greater than 0 (got 0)"),
    ],
)
def test_an_impossible_network_is_refused(changes, said):
    with pytest.raises(ValueError, match="refused") as failure:
        TSB.override({f"model.backbone.{name}": value for name, value in changes.items()})

    assert said in str(failure.value)


@pytest.mark.parametrize(
    ("arch", "family"),
    [
        ("deit3_small_patch16_224.fb_in22k_ft_in1k", "deit"), ("pico_tiny.glyphs", "deit"),
        ("vit_base_patch16_384.augreg_in21k_ft_in1k", "internvit"), ("vit_huge_patch14_224.mae", "internvit"),
        ("vit_large_patch14_dinov2.lvd142m", "internvit"), ("internvit_6b_patch14_224", "internvit"),
        ("beitv2_base_patch16_224.in1k_ft_in22k", "beit"), ("uniperceiver_large_patch16_224", "uniperceiver"),
        ("convnext_tiny.fb_in1k", "convnext"),
    ],
)  # fmt: skip
def test_a_branch_knows_its_family(arch, family):
    assert BranchSpec(arch=arch, resolution=224).family == family


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_a_spec_written_long_ago_goes_on_loading(file):
    written = json.loads(file.read_text())

    spec = ExperimentSpec.from_json(file.read_text())

    assert spec.name == file.stem
    # fields added since have defaults; those that were there keep their value, in their own place or where they moved since
    flat = spec.flat()
    kept = {name: value for name, value in _leaves(written).items() if ".out_strides." not in name}
    assert {name: {flat[place] for place in _places(name, flat)} for name in kept} == {n: {v} for n, v in kept.items()}


def _places(name, flat):
    """Where a field of an old spec is today."""
    if name == "model.backbone.interaction.kernel":
        return ["speed.kernel"]
    if name.startswith(("data.mean.", "data.std.")):
        channel = name.removeprefix("data")
        return [place for place in flat if place.startswith("model.backbone.") and place.endswith(channel)]
    return [name]


def test_there_are_old_specs_to_load():
    assert len(GOLDEN) >= 2


def _leaves(node, prefix=""):
    if not isinstance(node, dict | list):
        return {prefix[:-1]: node}
    children = node.items() if isinstance(node, dict) else enumerate(node)
    return {name: leaf for key, child in children for name, leaf in _leaves(child, f"{prefix}{key}.").items()}


OUT_OF_RANGE = {
    "data.train_scales": ([], [0], [-1], [1, 0], [1e9]),
    "data.recipe": (
        {"kind": "crops", "short": []},
        {"kind": "crops", "crop": [600, 384]},
        {"kind": "scales", "short": [800, 640]},
        {"kind": "jitter", "factors": [0, 2]},
        {"kind": "slices", "overlap": 1},
        {"kind": "lsj"},
    ),
    "data.mosaic": (-0.1, 1.1),
    "data.copy_paste": (-0.1, 1.1),
    "data.repeat_threshold": (-0.1, 1.1),
    "model.backbone.branches.0.std": ([0, 0, 0], [1, 1, -1], [1, 1, 1e9]),
    "model.backbone.branches.0.mean": ([-1, 0, 0], [0, 0, 256]),
    "model.backbone.branches.0.resolution": (10**9, 16, -224),
    "train.seed": (-1, 2**63),
    "optim.betas": ([1, 0.9], [0.9, -0.1]),
    "optim.milestones": ([1.1], [-0.1]),
    "model.head.anchor_scale": (0, -8),
    "model.head.fpn_channels": (0,),
    "model.head.rpn_pre_nms": (0, -1),
    "model.head.rpn_post_nms": (0,),
    "model.head.box_samples": (0,),
    "model.head.box_channels": (0,),
    "model.head.mask_convs": (-1,),
    "model.head.mask_channels": (0,),
    "model.head.score_threshold": (-0.1, 1.1),
    "model.head.nms_threshold": (-0.1, 1.1),
    "model.head.max_detections": (0,),
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in OUT_OF_RANGE.items() for value in values]
)
def test_a_number_out_of_range_is_refused_with_its_fields_name(field, value):
    with pytest.raises(ValueError, match=re.escape(field)):
        TSB.override({field: value})


@pytest.mark.parametrize("given", [{"train_scale": (0, 1)}, {"train_scale": (0.9, 0.5)}, {"train_scale": (0.5, 1.5)}])
def test_parts_of_an_image_are_drawn_from_a_range(given):
    with pytest.raises(ValueError, match="train_scale is drawn from a range"):
        ImageNetSpec(**given)


def test_infinity_and_nan_are_no_numbers_of_a_spec():
    for value in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"optim\.lr"):
            TSB.override({"optim.lr": value})


@pytest.mark.parametrize(
    ("spec", "first", "said"),
    [
        (Ade20kSpec(), 1, "label maps: numbers 1 (cat) to 7 (kite) are the 2 classes, 0 and 255 ignored"),
        (Ade20kSpec(ignore_value=0), 1, "label maps: numbers 1 (cat) to 7 (kite) are the 2 classes, 0 ignored"),
        (Ade20kSpec(reduce_zero_label=False), 0, "label maps: numbers 0 (cat) to 7 (kite) are the 2 classes, 255 ignored: 0 is a class, "
         "too (--set data.reduce_zero_label=true ignores it)"),
        (CocoSpec(), 1, ""),
    ],
)  # fmt: skip
def test_which_numbers_of_label_maps_are_classes_is_said(spec, first, said):
    assert spec.reading([{"id": first, "name": "cat"}, {"id": 7, "name": "kite"}]) == said


@pytest.mark.parametrize("data", [KeypointsSpec(), YoloSpec()], ids=lambda data: data.kind)
def test_runs_are_ranked_by_what_the_head_finds(data):
    by_head = {
        head: detector_pico(head, pico("TB", (96, 64)), steps=1).model_copy(update={"data": data}).scores
        for head in ("keypoint_rcnn", "faster_rcnn")
    }

    assert [score.name for score in by_head["keypoint_rcnn"]] == ["coco/keypoint_ap", "coco/box_ap", "coco/mask_ap"]
    assert [score.name for score in by_head["faster_rcnn"]] == ["coco/box_ap", "coco/mask_ap"]
