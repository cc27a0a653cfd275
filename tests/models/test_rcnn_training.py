"""What only training reads of the heads: who is matched, how many are sampled, what they cost. mmdetection's figures, by hand."""

import math

import pytest
import torch

from piip.models.heads.boxes import RoIPool
from piip.models.heads.mask_loss import mask_loss
from piip.models.heads.proposals import RPN
from piip.models.heads.rcnn import RCNN
from piip.models.heads.roi_heads import build_roi_heads
from piip.ops.mask_runs import runs_of
from piip.spec import MaskRCNNSpec

SPEC = MaskRCNNSpec(num_classes=3, fpn_channels=8, box_channels=8, mask_channels=8, rpn_pre_nms=40, rpn_post_nms=30)


def test_an_anchor_is_an_object_from_seven_tenths_on_background_below_three_and_nothing_between():
    rpn = RPN(SPEC)

    matched = rpn.proposal_matcher(torch.tensor([[0.29, 0.3, 0.69, 0.7, 0.95]]))

    assert matched.tolist() == [-1, -2, -2, 0, 0]
    # an object that no anchor fits has its best one
    assert rpn.proposal_matcher(torch.tensor([[0.1, 0.25, 0.2]])).tolist() == [-1, 0, -1]


def test_a_proposal_is_an_object_from_one_half_on_and_background_below():
    heads = build_roi_heads(SPEC)

    assert heads.proposal_matcher(torch.tensor([[0.1, 0.49, 0.5, 0.9]])).tolist() == [-1, -1, 0, 0]
    assert heads.proposal_matcher(torch.tensor([[0.1, 0.4, 0.2]])).tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("build", "positive", "sampled"),
    [
        (RPN, 1000, (128, 128)),  # half of 256
        (RPN, 10, (10, 246)),
        (build_roi_heads, 1000, (128, 384)),  # a quarter of 512
        (build_roi_heads, 10, (10, 502)),
    ],
)
def test_as_many_are_sampled_as_in_mmdetection(build, positive, sampled):
    sampler = build(SPEC.model_copy(update={"box_samples": 512})).fg_bg_sampler

    counts = [mask.sum().item() for (mask,) in sampler([torch.cat([torch.ones(positive), torch.zeros(1000)])])]

    assert tuple(counts) == sampled


def test_training_takes_twice_as_many_candidates_of_a_level_as_evaluation():
    rpn = RPN(SPEC)

    counts = {mode: (rpn.train(mode).pre_nms_top_n(), rpn.post_nms_top_n()) for mode in (True, False)}

    assert counts == {True: (40, 30), False: (20, 30)}


def test_proposals_cost_what_all_sampled_anchors_share():
    objectness = torch.zeros(6, 1)  # log 2 each
    labels = [torch.tensor([1.0, 0.0, -1.0]), torch.tensor([0.0, 1.0, 0.0])]
    deltas = torch.full((6, 4), 100.0)  # background and what is between have no box
    deltas[0], deltas[4] = torch.tensor([2.0, 0, 0, 0]), torch.tensor([0, 0, -1.0, 0])

    loss_objectness, loss_box = RPN(SPEC).compute_loss(objectness, deltas, labels, [torch.zeros(3, 4)] * 2)

    assert loss_objectness.item() == pytest.approx(math.log(2))
    assert loss_box.item() == pytest.approx((2 + 1) / 5)  # five of the six anchors are sampled


def test_a_box_of_a_hair_less_than_112_pixels_is_pooled_from_stride_8():
    features = [torch.full((1, 1, 256 // s, 256 // s), float(s)) for s in (4, 8, 16, 32)]
    box = torch.tensor([[16.4, 16.4, 128.4, 128.4]])
    assert ((box[0, 2] - box[0, 0]) * (box[0, 3] - box[0, 1])).sqrt() < 112

    assert RoIPool(output_size=1)(features, [box]).item() == 8


def square(*places, size=(40, 56)):
    masks = torch.zeros(len(places), *size, dtype=torch.uint8)
    for mask, (top, left) in zip(masks, places, strict=True):
        mask[top : top + 28, left : left + 28] = 1
    return masks


def test_a_cell_that_an_object_half_covers_belongs_to_it():
    # 28 x 28 px in 28 x 28 cells, half a pixel further right: the last column's centre lies on the object's edge
    target = {"mask_runs": runs_of(square((7, 14))), "labels": torch.tensor([1])}

    box = torch.tensor([[14.5, 7.0, 42.5, 35.0]])
    loss = mask_loss(torch.full((1, 2, 28, 28), 20.0), [box], [target], [torch.tensor([0])], [(40, 56)])

    assert loss < 1e-6


def test_nothing_is_learned_of_a_mask_without_a_pixel():
    masks = torch.cat([square((7, 14)), torch.zeros(1, 40, 56, dtype=torch.uint8)])
    target = {"mask_runs": runs_of(masks), "labels": torch.tensor([1, 2])}
    box = torch.tensor([[14.0, 7.0, 42.0, 35.0]])
    logits = torch.zeros(2, 3, 28, 28)
    logits[0] = 20.0  # right; of the other one it would cost log 2 a cell
    logits.requires_grad_()

    assert mask_loss(logits, [box.expand(2, 4)], [target], [torch.tensor([0, 1])], [(40, 56)]) < 1e-6
    nothing = mask_loss(logits, [box.expand(2, 4)], [target], [torch.tensor([1, 1])], [(40, 56)])
    nothing.backward()

    assert nothing == 0
    assert not logits.grad.any()


def test_what_the_probe_gives_of_proposals_is_all_that_losses_read_before_the_boxes():
    head = RCNN((8, 8, 8, 8), SPEC, build_roi_heads).train()
    probe = head.probe([torch.zeros(2, 8, 64 // s, 64 // s) for s in (4, 8, 16, 32)])

    assert probe["neck"]() == []
    shapes = [tuple(given.shape) for given in probe["rpn"]()]

    sides = (16, 8, 4, 2, 1)  # RoIAlign reads the maps; three anchors a cell have an objectness and a box
    assert shapes == [(2, channels, side, side) for channels in (8, 3, 12) for side in sides]
