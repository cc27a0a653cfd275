"""The code bases that detectors come from: torchvision's rules against torchvision itself, Detectron's against numbers of its own code."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filled import value
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import MultiScaleRoIAlign, box_iou, nms, roi_align

from piip.models.heads.boxes import Anchors, RoIPool
from piip.models.heads.dialects import CASCADE, DIALECTS, dialect_of
from piip.models.heads.mask_loss import mask_loss
from piip.models.heads.proposals import RPN
from piip.models.heads.roi_heads import box_losses, build_roi_heads
from piip.ops.mask_runs import runs_of
from piip.presets import INTERNIMAGE_CASCADE
from piip.spec import FasterRCNNSpec, MaskRCNNSpec

SMALL = {"num_classes": 3, "fpn_channels": 8, "box_channels": 8, "rpn_pre_nms": 40, "rpn_post_nms": 10}
STRIDES = (4, 8, 16, 32, 64)


@pytest.fixture(scope="module")
def detectron():
    with np.load(Path(__file__).parents[1] / "golden" / "detectron.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def maps(side=256, channels=8, levels=5):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, channels, side // s, side // s, generator=generator) for s in STRIDES[:levels]]


def half_open(boxes):
    """Detectron's boxes, which end at their last pixel, as ours, which end behind it."""
    return boxes + boxes.new_tensor([0, 0, 1, 1]).repeat(boxes.shape[-1] // 4)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_trains_and_predicts(dialect):
    torch.manual_seed(0)
    spec = MaskRCNNSpec(**SMALL, mask_channels=8, mask_convs=1, dialect=dialect)
    rpn, heads = RPN(spec), build_roi_heads(spec)
    box = torch.tensor([[20.0, 30.0, 90.0, 80.0]])
    target = {"boxes": box, "labels": torch.tensor([2]), "mask_runs": runs_of(torch.ones(1, 250, 200))}
    pyramid, images = dict(enumerate(maps())), ImageList(torch.empty(1, 3, 256, 256), [(250, 200)])

    proposals, losses = rpn(images, pyramid, [target])
    _, more = heads(list(pyramid.values())[:4], proposals, images.image_sizes, [target])
    sum((losses | more).values()).backward()
    (found,), _ = heads.eval()(list(pyramid.values())[:4], rpn.eval()(images, pyramid)[0], images.image_sizes)

    parameters = [*rpn.named_parameters(), *heads.named_parameters()]
    assert [name for name, p in parameters if p.grad is None or not p.grad.isfinite().all()] == []
    assert len(proposals[0]) == 10 * (2 if dialect == "torchvision" else 1)
    assert found["masks"].shape[1:] == (1, 28, 28)


def test_torchvisions_anchors_are_its_own():
    generator = AnchorGenerator(tuple((8.0 * s,) for s in STRIDES), ((0.5, 1.0, 2.0),) * 5)
    images = ImageList(torch.zeros(1, 3, 256, 256), [(256, 256)])
    (wanted,) = generator(images, maps())

    (ours,) = RPN(FasterRCNNSpec(**SMALL, dialect="torchvision")).anchor_generator(images, maps())

    torch.testing.assert_close(ours, wanted, rtol=0, atol=0)


def test_torchvisions_pooling_is_its_own():
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2)
    generator = torch.Generator().manual_seed(1)
    corner, sides = torch.rand(50, 2, generator=generator) * 100, torch.rand(50, 2, generator=generator) * 156
    boxes = torch.cat([corner, corner + sides], dim=1)
    wanted = pool({str(i): m for i, m in enumerate(maps(levels=4))}, [boxes], [(256, 256)])

    ours = RoIPool(7, dialect=DIALECTS["torchvision"])(maps(levels=4), [boxes])

    torch.testing.assert_close(ours, wanted)


def test_torchvisions_losses_are_its_own():
    generator = torch.Generator().manual_seed(2)
    labels, targets = [torch.tensor([1.0, 0, -1, 1, 0, 0])], [torch.rand(6, 4, generator=generator)]
    found = torch.randn(6, 1, generator=generator), torch.randn(6, 4, generator=generator)
    rpn = RPN(FasterRCNNSpec(**SMALL, dialect="torchvision"))

    for ours, wanted in zip(
        rpn.compute_loss(*found, labels, targets),
        RegionProposalNetwork.compute_loss(rpn, *found, labels, targets),
        strict=True,
    ):
        torch.testing.assert_close(ours, wanted)
    logits, deltas = torch.randn(6, 4, generator=generator), torch.randn(6, 16, generator=generator)
    classes = torch.tensor([0, 1, 3, 2, 0, 0])
    ours = box_losses(logits, deltas, classes, targets[0], beta=DIALECTS["torchvision"].box_beta)
    torch.testing.assert_close(tuple(ours.values()), fastrcnn_loss(logits, deltas, [classes], targets))


def test_torchvisions_masks_are_its_own():
    generator = torch.Generator().manual_seed(3)
    masks = (torch.rand(2, 40, 56, generator=generator) > 0.5).to(torch.uint8)
    boxes, objects, labels = (
        torch.tensor([[3.0, 4, 40, 30], [10, 2, 50, 38]]),
        torch.tensor([1, 0]),
        torch.tensor([2, 1]),
    )
    logits = torch.randn(2, 4, 28, 28, generator=generator)
    rules, target = DIALECTS["torchvision"], {"mask_runs": runs_of(masks), "labels": labels}

    ours = mask_loss(logits, [boxes], [target], [objects], [(40, 56)], aligned=rules.aligned, soft=rules.soft_masks)

    torch.testing.assert_close(ours, maskrcnn_loss(logits, [boxes], [masks], [labels], [objects]))


def test_detectron2_divides_by_256_anchors_an_image_however_few_there_are():
    given = torch.zeros(3, 1), torch.ones(3, 4), [torch.tensor([1.0, 0, 0])], [torch.zeros(3, 4)]

    loss_objectness, loss_box = RPN(FasterRCNNSpec(**SMALL, dialect="detectron2")).compute_loss(*given)

    assert loss_objectness.item() == pytest.approx(3 * math.log(2) / 256)
    assert loss_box.item() == pytest.approx(4 / 256)


@pytest.mark.parametrize("level", range(2, 7))
def test_detectrons_anchors(detectron, level):
    cell = Anchors([8], STRIDES, "pixels").cell(2**level)

    torch.testing.assert_close(cell.double(), half_open(detectron[f"anchors/fpn{level}"]), rtol=0, atol=0)


def test_detectrons_pixels_are_half_open_boxes_by_another_name(detectron):
    """Its coder, which counts pixels, and its overlaps are the ordinary ones of boxes that end one pixel further."""
    boxes, truth, deltas = (detectron[f"coder/{name}"] for name in ("boxes", "gt", "deltas"))

    for kind, weights in (("rpn", (1.0, 1.0, 1.0, 1.0)), ("box", (10.0, 10.0, 5.0, 5.0))):
        coder = BoxCoder(weights)
        encoded = coder.encode_single(half_open(truth), half_open(boxes))
        decoded = coder.decode_single(deltas, half_open(boxes))
        torch.testing.assert_close(encoded, detectron[f"coder/encode_{kind}"], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(decoded, half_open(detectron[f"coder/decode_{kind}"]), atol=1e-6, rtol=1e-6)
    overlaps = box_iou(half_open(boxes), half_open(truth))
    torch.testing.assert_close(overlaps, detectron["coder/iou"], atol=1e-6, rtol=1e-6)


def test_detectrons_levels(detectron):
    levels = RoIPool(7, dialect=DIALECTS["detectron"]).levels(half_open(detectron["coder/boxes"]))

    assert (levels + 2).tolist() == detectron["levels"].tolist()


def test_detectrons_pooling_takes_the_last_pixel_unaligned():
    box = torch.tensor([[8.0, 12.0, 41.0, 61.0]])
    wanted = roi_align(maps()[0], [torch.tensor([[8.0, 12.0, 40.0, 60.0]])], 7, 1 / 4, sampling_ratio=2, aligned=False)

    torch.testing.assert_close(RoIPool(7, dialect=DIALECTS["detectron"])(maps(levels=4), [box]), wanted)


def test_detectrons_box_and_mask_head(detectron):
    heads = build_roi_heads(MaskRCNNSpec(num_classes=80, dialect="detectron"))
    names = {
        "box_head.fc6": "Box_Head.fc1", "box_head.fc7": "Box_Head.fc2", "box_predictor.cls_score": "Box_Outs.cls_score",
        "box_predictor.bbox_pred": "Box_Outs.bbox_pred", "mask_predictor.conv5_mask": "Mask_Head.upconv",
        "mask_predictor.mask_fcn_logits": "Mask_Outs.classify",
        **{f"mask_head.{i}.0": f"Mask_Head.conv_fcn.{2 * i}" for i in range(4)},
    }  # fmt: skip
    state = heads.state_dict()
    for name, tensor in state.items():
        owner, _, leaf = name.rpartition(".")
        state[name] = value(f"{names[owner]}.{leaf}", tensor.shape, scale=0.02).float()
    heads.load_state_dict(state)
    boxes, masks = (
        torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()
        for seed, shape in ((5, (2, 256, 7, 7)), (6, (1, 256, 14, 14)))
    )

    with torch.no_grad():
        logits, deltas = heads.box_predictor(heads.box_head(boxes))
        drawn = heads.drawn(masks)

    torch.testing.assert_close(logits, detectron["mask_R50_FPN/box_cls_logits"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(deltas, detectron["mask_R50_FPN/box_reg"], atol=1e-4, rtol=1e-4)
    sample = detectron["mask_R50_FPN/mask_logits_sample"]
    torch.testing.assert_close(drawn.flatten()[::997], sample, atol=1e-4, rtol=1e-4)


def test_detectrons_nms_drops_what_overlaps_by_the_threshold_itself():
    boxes, scores = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]]), torch.tensor([0.9, 0.8])  # an overlap of one half

    assert len(nms(boxes, scores, DIALECTS["mmdet"].nms(0.5))) == 2
    assert len(nms(boxes, scores, DIALECTS["detectron"].nms(0.5))) == 1


def test_detectrons_images_share_their_proposals_in_training():
    rpn = RPN(FasterRCNNSpec(**SMALL, dialect="detectron"))  # ten an image
    scores = torch.linspace(1, 0, 30)
    proposals = torch.arange(30)[:, None] * 20.0 + torch.tensor([0.0, 0, 10, 10])  # none overlaps another
    given = torch.stack([proposals] * 2), torch.cat([scores, scores - 1])[None].reshape(2, 30), [(700, 700)] * 2, [30]

    together, _ = rpn.filter_proposals(*given)
    each, _ = rpn.eval().filter_proposals(*given)

    assert [len(boxes) for boxes in together] == [20, 0]  # the first image's are all better than the second's
    assert [len(boxes) for boxes in each] == [10, 10]


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        (FasterRCNNSpec(**SMALL), [1, 0, 0, 0]),
        (FasterRCNNSpec(**SMALL, dialect="detectron"), [1, 0, -1, -1]),
        (INTERNIMAGE_CASCADE.override(SMALL), [1, -1, -1, -1]),
    ],
    ids=["mmdet", "detectron", "cascade"],
)
def test_who_learns_from_anchors_that_reach_out_of_the_image(spec, wanted):
    # on the object; to the image's last pixels; a pixel further; out at the left
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 50, 60], [20, 20, 51, 60], [-1, 30, 8, 40]])
    target = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([1])}
    rpn = RPN(spec)
    rpn._sizes = [(60, 50)]

    (labels,), (boxes,) = rpn.assign_targets_to_anchors([anchors], [target])

    assert labels.tolist() == wanted
    assert boxes[0].tolist() == [0, 0, 10, 10]


def test_an_image_too_small_for_an_anchor_inside_costs_nothing():
    rpn = RPN(FasterRCNNSpec(**SMALL, dialect="detectron"))

    losses = rpn.compute_loss(torch.zeros(2, 1), torch.zeros(2, 4), [-torch.ones(2)], [torch.zeros(2, 4)])

    assert [loss.item() for loss in losses] == [0, 0]


def test_a_cascade_has_mmdetections_rules_and_no_others():
    assert dialect_of(INTERNIMAGE_CASCADE) is CASCADE
    assert F.smooth_l1_loss(torch.tensor([2.0]), torch.tensor([0.0]), beta=CASCADE.box_beta).item() == 1.5
    with pytest.raises(ValueError, match="a Cascade R-CNN is mmdetection's"):
        INTERNIMAGE_CASCADE.override({"dialect": "torchvision"})
    with pytest.raises(ValueError, match=r"name \[2, 3, 3\] stages"):
        INTERNIMAGE_CASCADE.override({"stage_ious": [0.5, 0.6]})
