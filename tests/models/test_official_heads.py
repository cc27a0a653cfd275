"""A converted mmdet head predicts what mmdet's formula predicts from the same tensors and the same maps.

The formulas below are written from mmdet 2.25's definitions, on the official file's own tensors: background is its last class, boxes
are decoded with standard deviations .1 .1 .2 .2, masks have one map per class.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, roi_align

from piip.models.heads.boxes import Anchors
from piip.models.heads.rcnn import RCNN
from piip.models.heads.roi_heads import build_roi_heads
from piip.models.network import Network
from piip.spec import BranchSpec, MaskRCNNSpec, ModelSpec, PIIPSpec
from piip.weights.names.mmdet import fit_weights, official_name
from piip.weights.read import Weights, WeightsError

CLASSES = ("ant", "bee", "cat", "dog", "eel")
HEAD = MaskRCNNSpec(
    num_classes=5, fpn_channels=16, rpn_pre_nms=200, rpn_post_nms=60, box_channels=32, mask_convs=2, mask_channels=16,
    score_threshold=0.05, max_detections=30,
)  # fmt: skip
SPEC = ModelSpec(backbone=PIIPSpec(branches=(BranchSpec(arch="deit_tiny_patch16_224", resolution=64),)), head=HEAD)
SIZE = (96, 128)


class Maps(torch.nn.Module):
    """Stands where a backbone would."""

    out_channels = (8, 8, 8, 8)

    def forward(self, images):
        images = images.repeat(1, 3, 1, 1)[:, :8]
        return [torch.sin(7 * (s + 1) * F.adaptive_avg_pool2d(images, (96 // s, 128 // s))) for s in (4, 8, 16, 32)]


def mmdet_shape(name, shape):
    """The official shape of a tensor: no row for background in boxes and masks."""
    if "fc_reg" in name:
        return (shape[0] - 4, *shape[1:])
    if "conv_logits" in name:
        return (shape[0] - 1, *shape[1:])
    return tuple(shape)


@pytest.fixture
def official():
    """An mmdet file's tensors: large enough for some confident, overlapping boxes."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for ours, value in Network(Maps(), RCNN(Maps.out_channels, HEAD, build_roi_heads)).state_dict().items():
        name = official_name(ours, SPEC)
        shape = mmdet_shape(name, value.shape)
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 100
        tensors[name] = (
            torch.randn(shape, generator=generator)
            * (3 if "fc_cls" in name else 0.5 if "rpn_cls" in name else 1)
            / math.sqrt(fan_in)
        )
    return tensors


@pytest.fixture
def model(official):
    model = Network(Maps(), RCNN(Maps.out_channels, HEAD, build_roi_heads))
    fitted, report = fit_weights(Weights(official, "test"), model, SPEC, CLASSES)
    report.require(())
    model.load_state_dict(fitted)
    return model.eval()


@pytest.fixture
def images():
    return torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def conv(x, official, name, **arguments):
    return F.conv2d(x, official[f"{name}.weight"], official[f"{name}.bias"], **arguments)


def linear(x, official, name):
    return F.linear(x, official[f"{name}.weight"], official[f"{name}.bias"])


def mmdet_fpn(maps, official):
    laterals = [conv(m, official, f"neck.lateral_convs.{i}.conv") for i, m in enumerate(maps)]
    for i in (3, 2, 1):
        laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], size=laterals[i - 1].shape[-2:], mode="nearest")
    outs = [conv(m, official, f"neck.fpn_convs.{i}.conv", padding=1) for i, m in enumerate(laterals)]
    return [*outs, F.max_pool2d(outs[-1], 1, stride=2)]


def mmdet_decode(boxes, deltas, stds, size):
    """DeltaXYWHBBoxCoder.decode."""
    dx, dy, dw, dh = (deltas * torch.tensor(stds)).unbind(-1)
    limit = abs(math.log(16 / 1000))
    x, y = (boxes[..., 0] + boxes[..., 2]) / 2, (boxes[..., 1] + boxes[..., 3]) / 2
    w, h = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    x, y = x + w * dx, y + h * dy
    w, h = w * dw.clamp(-limit, limit).exp(), h * dh.clamp(-limit, limit).exp()
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
    return torch.stack([corners[..., k].clamp(0, size[1 - k % 2]) for k in range(4)], -1)


def test_the_neck_is_mmdets(model, official, images):
    with torch.no_grad():
        ours = list(model.head.pyramid(Maps()(images)).values())

    for map_, expected in zip(ours, mmdet_fpn(Maps()(images), official), strict=True):
        torch.testing.assert_close(map_, expected, atol=1e-5, rtol=0)


def test_proposals_are_mmdets(model, official, images):
    features = mmdet_fpn(Maps()(images), official)
    anchors = Anchors([8], (4, 8, 16, 32, 64))(ImageList(images, [SIZE]), features)[0]
    scores, deltas, levels = [], [], []
    for level, feature in enumerate(features):
        hidden = conv(feature, official, "rpn_head.rpn_conv", padding=1).relu()
        # per image (H, W, A) and (H, W, A * 4), as mmdet flattens them
        scores.append(conv(hidden, official, "rpn_head.rpn_cls")[0].permute(1, 2, 0).reshape(-1).sigmoid())
        deltas.append(conv(hidden, official, "rpn_head.rpn_reg")[0].permute(1, 2, 0).reshape(-1, 4))
        levels.append(torch.full_like(scores[-1], level))
    boxes = mmdet_decode(anchors, torch.cat(deltas), (1.0, 1.0, 1.0, 1.0), SIZE)
    # the best 100 of a level, NMS per level, the best 60 of all
    kept = [s.topk(min(100, len(s))).indices + sum(len(x) for x in scores[:i]) for i, s in enumerate(scores)]
    chosen, scores, levels = torch.cat(kept), torch.cat(scores), torch.cat(levels)
    chosen = chosen[((boxes[chosen, 2:] - boxes[chosen, :2]) > 0).all(1)]  # clipped away altogether
    best = batched_nms(boxes[chosen], scores[chosen], levels[chosen], 0.7)[:60]
    expected = boxes[chosen][best]

    with torch.no_grad():
        (ours,), _ = model.head.rpn(ImageList(images, [SIZE]), model.head.pyramid(Maps()(images)))

    assert len(expected) == 60
    torch.testing.assert_close(ours, expected, atol=1e-3, rtol=0)


def mmdet_rois(features, boxes, side):
    """SingleRoIExtractor over strides 4..32."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    level = (areas.sqrt() / 56 + 1e-6).log2().floor().clamp(0, 3).long()
    pooled = torch.zeros(len(boxes), features[0].shape[1], side, side)
    for index, stride in enumerate((4, 8, 16, 32)):
        rois = torch.cat([torch.zeros(len(boxes), 1), boxes], 1)[level == index]
        pooled[level == index] = roi_align(features[index], rois, side, 1 / stride, sampling_ratio=0, aligned=True)
    return pooled


def mmdet_detections(features, proposals, official):
    """StandardRoIHead's boxes and labels, and its mask logits for them."""
    hidden = mmdet_rois(features, proposals, 7).flatten(1)
    for layer in (0, 1):
        hidden = linear(hidden, official, f"roi_head.bbox_head.shared_fcs.{layer}").relu()
    scores = linear(hidden, official, "roi_head.bbox_head.fc_cls").softmax(1)[:, :-1]  # background is the last
    deltas = linear(hidden, official, "roi_head.bbox_head.fc_reg").view(len(proposals), -1, 4)
    boxes = mmdet_decode(proposals[:, None].expand_as(deltas), deltas, (0.1, 0.1, 0.2, 0.2), SIZE)
    rows, labels = torch.where(scores > 0.05)
    kept = batched_nms(boxes[rows, labels], scores[rows, labels], labels, 0.5)[:30]
    rows, labels = rows[kept], labels[kept]
    boxes = boxes[rows, labels]
    hidden = mmdet_rois(features, boxes, 14)
    for layer in (0, 1):
        hidden = conv(hidden, official, f"roi_head.mask_head.convs.{layer}.conv", padding=1).relu()
    upsample = (official[f"roi_head.mask_head.upsample.{part}"] for part in ("weight", "bias"))
    hidden = F.conv_transpose2d(hidden, *upsample, stride=2).relu()
    masks = conv(hidden, official, "roi_head.mask_head.conv_logits")[torch.arange(len(labels)), labels].sigmoid()
    return boxes, labels, scores[rows, labels], masks


def test_boxes_labels_scores_and_masks_are_mmdets(model, official, images):
    with torch.no_grad():
        features = model.head.pyramid(Maps()(images))
        (proposals,), _ = model.head.rpn(ImageList(images, [SIZE]), features)
        (ours,) = model(images, [SIZE])
    boxes, labels, scores, masks = mmdet_detections(list(features.values()), proposals, official)

    assert len(labels.unique()) > 2
    assert len(labels) > 10
    torch.testing.assert_close(ours["boxes"], boxes, atol=1e-3, rtol=0)
    assert (ours["labels"] - 1).tolist() == labels.tolist()
    torch.testing.assert_close(ours["scores"], scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours["masks"][:, 0], masks, atol=1e-4, rtol=0)


def test_classes_are_put_in_the_datas_order(model, official, images):
    turned = [3, 0, 4, 1, 2]
    with torch.no_grad():
        before = model(images, [SIZE])[0]["labels"]
        fitted, _ = fit_weights(Weights(official, "test", classes=CLASSES), model, SPEC, [CLASSES[k] for k in turned])
        model.load_state_dict(fitted)
        after = model(images, [SIZE])[0]["labels"]

    assert [turned[label - 1] for label in after] == (before - 1).tolist()


def test_other_classes_are_refused(model, official):
    with pytest.raises(WeightsError, match="knows 5 classes, the data has 5; first difference: fox"):
        fit_weights(Weights(official, "test", classes=CLASSES), model, SPEC, ("ant", "bee", "cat", "dog", "fox"))
