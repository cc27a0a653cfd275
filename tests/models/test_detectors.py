"""What every detector by anchors keeps: finite losses under constant names, gradients everywhere, fp32 heads; and its own arithmetic."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from test_any_backbone_with_any_head import BACKBONES, HEADS, SIDE, target
from torchvision.ops import generalized_box_iou_loss

from piip.counting.cost import cost
from piip.counting.memory import training_memory
from piip.models import build_model
from piip.models.heads.cascade import Cascade, ConvFCHead, box_head, refined
from piip.models.heads.retinanet import RetinaNet
from piip.models.heads.roi_heads import own_class
from piip.presets import INTERNIMAGE_CASCADE
from piip.spec import ModelSpec, RetinaNetSpec, TrainSpec

DETECTORS = ["faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn", "retinanet"]
STAGES = [f"loss_{part}_{stage}" for stage in (1, 2, 3) for part in ("classifier", "box")]
PROPOSALS = {"loss_objectness", "loss_rpn_box"}
LOSSES = {
    "faster_rcnn": PROPOSALS | {"loss_classifier", "loss_box"},
    "mask_rcnn": PROPOSALS | {"loss_classifier", "loss_box", "loss_mask"},
    "cascade_rcnn": PROPOSALS | set(STAGES),
    "cascade_mask_rcnn": PROPOSALS | set(STAGES) | {f"loss_mask_{stage}" for stage in (1, 2, 3)},
    "retinanet": {"loss_cls", "loss_box"},
}
SIZES = [(SIDE, SIDE), (SIDE, SIDE - 9)]
EMPTY = {name: value[:0] for name, value in target().items()}


def model_of(head):
    torch.manual_seed(0)
    return build_model(ModelSpec(backbone=BACKBONES["cnn"], head=HEADS[head]), pretrained=False)


@pytest.mark.parametrize("targets", [[target()] * 2, [EMPTY, target()], [EMPTY] * 2], ids=["full", "one", "none"])
@pytest.mark.parametrize("head", DETECTORS)
def test_losses_have_the_same_names_and_reach_every_parameter(head, targets):
    model = model_of(head)

    losses = model(torch.rand(2, 3, SIDE, SIDE), SIZES, targets)
    sum(losses.values()).backward()

    assert set(losses) == LOSSES[head]
    assert all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("head", DETECTORS)
def test_an_image_alone_is_predicted_as_in_company(head):
    model = model_of(head).eval()
    images = torch.rand(2, 3, SIDE, SIDE)

    with torch.no_grad():
        together, alone = model(images, [(SIDE, SIDE)] * 2)[1], model(images[1:], [(SIDE, SIDE)])[0]

    assert alone.keys() == {"boxes", "labels", "scores"} | ({"masks"} if HEADS[head].learns_masks else set())
    assert (alone["scores"].diff() <= 0).all()
    torch.testing.assert_close(together["boxes"], alone["boxes"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("head", DETECTORS)
def test_heads_stay_fp32_under_autocast_unless_they_need_not(head):
    model, seen = model_of(head), {True: set(), False: set()}
    for fp32, dtypes in seen.items():
        model.head.fp32_heads = fp32
        hooks = [
            part.register_forward_hook(lambda *called, dtypes=dtypes: dtypes.add(called[2].dtype))
            for name, part in model.head.named_modules()
            if not name.startswith("neck") and isinstance(part, torch.nn.Conv2d | torch.nn.Linear)
        ]
        with torch.autocast("cpu", torch.bfloat16):
            losses = model(torch.rand(2, 3, SIDE, SIDE), SIZES, [target()] * 2)
        for hook in hooks:
            hook.remove()
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())

    assert seen == {True: {torch.float32}, False: {torch.bfloat16}}


@pytest.mark.parametrize("head", DETECTORS)
def test_cost_and_memory_are_counted(head):
    spec = ModelSpec(backbone=BACKBONES["internimage"], head=HEADS[head])

    counted = cost(spec, SIDE, SIDE)
    memory = training_memory(spec, TrainSpec(batch_size=2, engine="ddp"), SIDE, SIDE)

    assert counted.of_head == {"neck", "head"} if head == "retinanet" else {"neck", "rpn", "roi_heads"}
    assert all(counted.parts[part][0] > 0 for part in counted.of_head)
    assert memory.activations_gb > 0


def test_a_cascades_stages_are_counted_each():
    three, one = (
        ModelSpec(
            backbone=BACKBONES["cnn"],
            head=HEADS["cascade_rcnn"].override(
                {"stage_ious": [0.5] * n, "stage_stds": [[0.1] * 4] * n, "stage_weights": [1] * n}
            ),
        )
        for n in (3, 1)
    )

    parts = [cost(spec, SIDE, SIDE).parts["roi_heads"] for spec in (three, one)]

    assert parts[0] == pytest.approx([3 * part for part in parts[1]])


def test_boxes_move_by_the_truths_class_in_training_and_by_the_likeliest_else():
    stage = Cascade(HEADS["cascade_mask_rcnn"]).stages[0]
    logits = torch.tensor([[9.0, 0, 1, 0], [9, 0, 1, 0]])  # class 2 is likeliest, but for background
    deltas = torch.zeros(2, 4, 4)
    deltas[:, 1, 0], deltas[:, 2, 0] = 1.0, 2.0  # a tenth of a width, two tenths
    boxes = [torch.tensor([[10.0, 10, 30, 30], [40, 10, 60, 30]])]

    trained = refined(stage, logits, deltas.flatten(1), boxes, [(64, 62)], [torch.tensor([1, 0])])
    asked = refined(stage, logits, deltas.flatten(1), boxes, [(64, 62)])

    torch.testing.assert_close(trained[0], torch.tensor([[12.0, 10, 32, 30], [44, 10, 62, 30]]))  # cut at the content
    torch.testing.assert_close(asked[0], torch.tensor([[14.0, 10, 34, 30], [44, 10, 62, 30]]))


def test_the_next_stage_gets_no_objects_but_its_own():
    cascade = Cascade(HEADS["cascade_rcnn"])
    given = []
    for stage in cascade.stages:
        stage.sampled = lambda proposals, targets, stage=stage: (
            given.append(len(proposals[0])),
            type(stage).sampled(stage, proposals, targets),
        )[1]
    maps = [torch.rand(1, 8, SIDE // s, SIDE // s) for s in (4, 8, 16, 32)]

    cascade(maps, [torch.tensor([[1.0, 1, 20, 20], [5, 5, 60, 60], [3, 9, 30, 20]])], [(SIDE, SIDE)], [target()])

    assert given == [3, 3, 3]


def test_a_box_of_a_cascade_like_internimages_costs_ten_times_its_lack_of_overlap():
    cascade = Cascade(INTERNIMAGE_CASCADE.override({"num_classes": 3, "fpn_channels": 8, "box_channels": 8}))
    stage, torch_seed = cascade.stages[0], 4
    torch.manual_seed(torch_seed)
    samples = stage.sampled([torch.tensor([[2.0, 5, 38, 42], [50, 50, 60, 60]])], [target()])
    logits, deltas = torch.randn(len(samples.labels[0]), 4), torch.randn(len(samples.labels[0]), 16) * 0.1

    losses = cascade._box_losses(stage, samples, logits, deltas)

    positive = samples.labels[0] > 0
    moved = stage.box_coder.decode_single(own_class(deltas, samples.labels[0])[positive], samples.boxes[0][positive])
    lack = generalized_box_iou_loss(moved, samples.truth[0][positive]).sum() / len(samples.labels[0])
    torch.testing.assert_close(losses["loss_box"], 10 * lack)
    torch.testing.assert_close(losses["loss_classifier"], F.cross_entropy(logits, samples.labels[0]))


def test_a_head_with_batchnorm_takes_no_boxes_at_all():
    head = box_head(HEADS["cascade_mask_rcnn"])
    assert isinstance(head, ConvFCHead)

    out = head(torch.rand(0, 8, 7, 7, requires_grad=True))
    out.sum().backward()

    assert out.shape == (0, 8)
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())
    assert all(value.isfinite().all() for value in head.state_dict().values())


# RetinaNet


def retina(**changes):
    torch.manual_seed(0)
    return RetinaNet((4, 6, 8), RetinaNetSpec(num_classes=2, fpn_channels=8, **changes))


def test_the_levels_beyond_the_backbone_come_from_its_map_or_from_the_pyramids():
    maps = [torch.rand(1, channels, SIDE // s, SIDE // s) for channels, s in ((4, 8), (6, 16), (8, 32))]
    for extra in ("c5", "p5"):  # torchvision would take p5 for both: the last map is as wide as the pyramid
        net = retina(extra_levels=extra)
        pyramid = net.pyramid(maps)
        source = maps[-1] if extra == "c5" else pyramid[2]
        torch.testing.assert_close(pyramid[3], net.neck.extra_blocks.p6(source))
        torch.testing.assert_close(pyramid[4], net.neck.extra_blocks.p7(pyramid[3].relu()))


def test_anchors_are_detectron2s():
    cell = retina().anchors.cell(8)

    areas = ((cell[:, 2] - cell[:, 0]) * (cell[:, 3] - cell[:, 1])).sqrt()
    ratios = (cell[:, 3] - cell[:, 1]) / (cell[:, 2] - cell[:, 0])
    assert areas.tolist() == pytest.approx([32 * 2 ** (k / 3) for k in (0, 0, 0, 1, 1, 1, 2, 2, 2)])
    assert ratios.tolist() == pytest.approx([0.5, 1, 2] * 3)


def test_losses_by_hand():
    net, anchors = retina(box_beta=0.0), torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4.5], [20, 20, 30, 30]])
    objects = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([2])}
    logits, deltas = torch.zeros(1, 3, 2), torch.full((1, 3, 4), 0.5)

    losses = net._losses(logits, deltas, anchors, [objects])

    # the first anchor is class 2, the second (an overlap of .45) nobody's, the third background: p = 1/2 everywhere, (1/2)^2 log 2
    one = 0.25 * math.log(2)
    assert net.normaliser.item() == pytest.approx(0.9 * 100 + 0.1 * 1)
    assert losses["loss_cls"].item() == pytest.approx((0.25 * one + 0.75 * one + 2 * 0.75 * one) / 90.1)
    assert losses["loss_box"].item() == pytest.approx(4 * 0.5 / 90.1)


def test_two_workers_divide_by_one_number(monkeypatch):
    net, anchors = retina(), torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    objects = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([2])}
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda counts: counts.add_(4))  # the other one has four

    net._losses(torch.zeros(1, 2, 2), torch.zeros(1, 2, 4), anchors, [objects])

    assert net.normaliser.item() == pytest.approx(0.9 * 100 + 0.1 * (1 + 4) / 2)


def test_the_best_boxes_of_a_class_are_kept():
    net = retina(pre_nms=3, max_detections=2)
    anchors = [torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 50], [40, 0, 50, 10]])]
    logits = [torch.tensor([[3.0, -9], [2, -9], [-9, 1], [0.5, -9]])]

    found = net._prediction(logits, [torch.zeros(4, 4)], anchors, (40, 60))

    # the second is the first's, the fourth was no candidate any more
    assert found["labels"].tolist() == [1, 2]
    torch.testing.assert_close(found["scores"], torch.tensor([3.0, 1.0]).sigmoid())
    torch.testing.assert_close(found["boxes"], torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 40]]))  # cut at the content


def test_retinanets_towers_are_normalised_where_asked():
    plain, grouped = (
        build_model(
            ModelSpec(backbone=BACKBONES["cnn"], head=RetinaNetSpec(fpn_channels=32, tower_norm=norm)), pretrained=False
        )
        for norm in ("none", "group")
    )

    assert [type(part) for part in plain.modules() if isinstance(part, torch.nn.GroupNorm)] == []
    assert [part.num_groups for part in grouped.head.head.modules() if isinstance(part, torch.nn.GroupNorm)] == [32] * 8
    with pytest.raises(ValidationError, match="tower_norm group has 32 groups, fpn_channels 48"):
        RetinaNetSpec(fpn_channels=48, tower_norm="group")
