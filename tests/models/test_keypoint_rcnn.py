from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filled import value

from piip.models.heads.keypoints import KeypointRoIHeads, doubled
from piip.models.heads.roi_heads import Samples
from piip.spec import KeypointRCNNSpec

SMALL = {"fpn_channels": 8, "box_channels": 8, "keypoint_convs": 1, "keypoint_channels": 8}


@pytest.fixture(scope="module")
def detectron():
    with np.load(Path(__file__).parents[1] / "golden" / "detectron.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays if name.startswith("kps")}


def test_detectrons_doubling(detectron):
    found = doubled(detectron["kps_upsample/in"].float())
    torch.testing.assert_close(found, detectron["kps_upsample/out"].float(), atol=1e-6, rtol=1e-5)


def test_detectrons_box_and_keypoint_head(detectron):
    heads = KeypointRoIHeads(KeypointRCNNSpec(dialect="detectron"))
    names = {
        "box_head.fc6": "Box_Head.fc1", "box_head.fc7": "Box_Head.fc2", "box_predictor.cls_score": "Box_Outs.cls_score",
        "box_predictor.bbox_pred": "Box_Outs.bbox_pred", "keypoint_predictor.kps_score_lowres": "Keypoint_Outs.classify",
        **{f"keypoint_head.{2 * i}": f"Keypoint_Head.conv_fcn.{2 * i}" for i in range(8)},
    }  # fmt: skip
    state = heads.state_dict()
    for name, tensor in state.items():
        owner, _, leaf = name.rpartition(".")
        state[name] = value(f"{names[owner]}.{leaf}", tensor.shape, scale=0.02).float()
    heads.load_state_dict(state)
    boxes, squares = (
        torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()
        for seed, shape in ((5, (2, 256, 7, 7)), (6, (1, 256, 14, 14)))
    )

    with torch.no_grad():
        logits, deltas = heads.box_predictor(heads.box_head(boxes))
        # the golden's weights are all filled, those of the doubling, too, which are fixed else (the test above)
        weight, bias = (
            value(f"Keypoint_Outs.upsample.upconv.{name}", shape, scale=0.02).float()
            for name, shape in (("weight", (17, 17, 4, 4)), ("bias", (17,)))
        )
        lowres = heads.keypoint_predictor.kps_score_lowres(heads.keypoint_head(squares))
        placed = F.conv_transpose2d(lowres, weight, bias, stride=2, padding=1)

    torch.testing.assert_close(logits, detectron["kps_R50_FPN/box_cls_logits"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(deltas, detectron["kps_R50_FPN/box_reg"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(placed.flatten()[::997], detectron["kps_R50_FPN/kps_sample"], atol=1e-4, rtol=1e-4)


def test_visible_keypoints_inside_their_box_are_learned_each_as_one_cell_of_56_by_56():
    torch.manual_seed(0)
    heads = KeypointRoIHeads(KeypointRCNNSpec(**SMALL, num_keypoints=4))
    box = torch.tensor([[10.0, 20, 66, 132]])  # a cell is 1 x 2 pixels
    samples = Samples([box], [torch.tensor([1])], [torch.tensor([1])], [box], [torch.tensor([False])])
    # of the second object: within the first cell, on the right and lower edge, not visible, outside the box
    points = torch.tensor([[[10.0, 20, 2]] * 4, [[10.5, 21.5, 1], [66, 132, 2], [30, 40, 0], [70, 40, 2]]])
    features = [torch.rand(1, 8, side, side) for side in (64, 32, 16, 8)]

    (loss,) = heads.inside_losses(features, samples, [(256, 256)], [{"keypoints": points}]).values()

    chances = heads.keypoint_logits(features, [box])[0].flatten(1).log_softmax(dim=1)
    torch.testing.assert_close(loss, -(chances[0, 0] + chances[1, -1]) / 2)


def test_keypoints_are_found_where_their_map_is_highest():
    spec = KeypointRCNNSpec(**SMALL, num_keypoints=2, score_threshold=0.0)
    heads = KeypointRoIHeads(spec).eval()
    maps = torch.full((3, 2, 56, 56), -9.0)
    maps[:, 0, 7, 5] = maps[:, 1, 50, 55] = 9.0
    heads.keypoint_logits = lambda features, boxes: maps[: len(torch.cat(boxes))]  # pyright: ignore
    features = [torch.rand(1, 8, side, side) for side in (64, 32, 16, 8)]

    (found,), losses = heads(features, [torch.tensor([[10.0, 20, 122, 76]])], [(256, 256)])

    assert losses == {}
    for box, points in zip(found["boxes"], found["keypoints"], strict=True):
        cell = (box[2:] - box[:2]) / 56
        wanted = box[:2] + cell * torch.tensor([[5.5, 7.5], [55.5, 50.5]])
        assert ((points[:, :2] - wanted).abs() <= cell.clamp(min=1.0)).all()
        assert (points[:, 2] == 1).all()
    assert len(found["boxes"])


def test_where_no_keypoint_says_anything_the_branch_still_has_gradients():
    heads = KeypointRoIHeads(KeypointRCNNSpec(**SMALL, num_keypoints=2))
    features = [torch.rand(1, 8, side, side) for side in (64, 32, 16, 8)]
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "keypoints": torch.zeros(0, 2, 3)}
    hidden = {
        "boxes": torch.tensor([[10.0, 10, 60, 60]]),
        "labels": torch.tensor([1]),
        "keypoints": torch.zeros(1, 2, 3),
    }

    for target in (empty, hidden):
        heads.zero_grad()
        _, losses = heads(features, [torch.tensor([[10.0, 10, 60, 60]])], [(256, 256)], [target])
        losses["loss_keypoint"].backward()

        assert losses["loss_keypoint"] == 0
        assert all(p.grad is not None for p in heads.keypoint_head.parameters())
