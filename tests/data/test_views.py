"""Several views of an image: of one view its own predictions, an object on a seam once, costs that add up."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import grey
from tiny import ROWS
from torch import nn

from piip.catalogue import preflight
from piip.catalogue.overrides import seen_in
from piip.catalogue.preflight import cost_of
from piip.counting.costs import Cost
from piip.data import open_dataset
from piip.data.masks import results_of
from piip.data.merging import joined, merged, soft_nms
from piip.data.samples import ImageInfo
from piip.data.transforms.views import View
from piip.options import UsageError
from piip.spec import CocoSpec
from piip.spec.views import ViewsSpec
from piip.training.evaluate import predicted, score

ROW = ROWS["pico"][0]


def spec_of(**views):
    return CocoSpec(name="custom", short_ratio=1.0, pad_multiple=32, views=ViewsSpec(**views) if views else None)


class Bright(nn.Module):
    """A detector of bright pixels: each patch of them that holds together is an object; knows neither left nor right."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen = 0

    def forward(self, images, sizes):
        self.seen += len(images)
        return [self.objects(image[0, :h, :w] > 0) for image, (h, w) in zip(images, sizes, strict=True)]

    def objects(self, bright):
        boxes, left = [], bright.clone()
        while left.any():
            y, x = left.nonzero()[0].tolist()
            x1 = x + int((~torch.nn.functional.pad(left[y, x:], (0, 1))).nonzero()[0])
            y1 = y + int((~torch.nn.functional.pad(left[y:, x], (0, 1))).nonzero()[0])
            if min(x1 - x, y1 - y) >= 8:  # slivers at the edge of a slice are nothing to it
                boxes.append([x, y, x1, y1])
            left[y:y1, x:x1] = False
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
        return {
            "boxes": boxes,
            "labels": torch.ones(len(boxes), dtype=torch.int64),
            "scores": 0.5 + 0.4 * area / 1e4,
            "masks": torch.ones(len(boxes), 1, 28, 28),
        }


@pytest.fixture
def squares(coco_folder):
    """An image of 200 x 160 with four bright rectangles on black, as PNG."""
    pixels = np.zeros((160, 200, 3), dtype=np.uint8)
    image = coco_folder.add_image(200, 160, "a.png", pixels)
    for box in ((10, 10, 20, 30), (90, 70, 30, 24), (150, 110, 12, 12), (40, 130, 60, 20)):
        x, y, w, h = box
        pixels[y : y + h, x : x + w] = 255
        coco_folder.add_object(image, box)
    from PIL import Image

    Image.fromarray(pixels).save(coco_folder.images / "a.png")
    return coco_folder.write()


def results(source, views, model=None, resolution=200):
    data = open_dataset(spec_of(**views), source, grey(resolution))
    _, found = score(model or Bright().eval(), data)
    return found[0][1]


def boxes(found):
    return np.array(sorted([entry["bbox"] for entry in found]))


TRUTH = np.array([[10, 10, 20, 30], [40, 130, 60, 20], [90, 70, 30, 24], [150, 110, 12, 12]])


@pytest.mark.parametrize("views", [{"slices": 400}, {"scales": (1.0,)}, {"slices": 200, "merge": "nms"}])
def test_one_view_is_the_plain_prediction(views, squares):
    assert results(squares, views) == results(squares, {})


def test_a_view_of_a_network_that_knows_no_left_is_itself(squares):
    plain, flipped = results(squares, {}), results(squares, {"flip": True})

    np.testing.assert_allclose(boxes(flipped), boxes(plain), atol=1e-4)
    assert sorted(e["score"] for e in flipped) == pytest.approx(sorted(e["score"] for e in plain))


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("side", [64, 80, 100, 128])
def test_an_object_on_a_seam_is_found_once(side, whole, squares):
    # the overlap, 40 pixels and more, holds all but the longest object, of which any two slices share more than half
    model = Bright().eval()
    found = results(squares, {"slices": side, "overlap": 0.65, "whole": whole}, model)

    assert model.seen == len(ViewsSpec(slices=side, overlap=0.65, whole=whole).of(160, 200))
    np.testing.assert_allclose(boxes(found), TRUTH, atol=2.5)  # resizing blurs an edge over some pixels
    for entry in found:
        # what several slices saw of a mask is put together
        assert entry["segmentation"]["size"] == [160, 200]


def test_views_at_several_scales_are_one_prediction(squares):
    found = results(squares, {"scales": (0.5, 1.0, 2.0), "flip": True})

    np.testing.assert_allclose(boxes(found), TRUTH, atol=3)


def prediction(boxes, scores, labels=None, masks=None):
    found = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor(scores, dtype=torch.float32),
        "labels": torch.tensor(labels or [1] * len(scores)),
    }
    return found if masks is None else found | {"masks": masks}


def plain_view(*part):
    top, left, height, width = part or (0, 0, 100, 100)
    return View((100, 100), (top, left, height, width), (height, width))


def test_neighbours_that_one_view_told_apart_stay_two():
    inside = prediction([[0, 0, 50, 50], [10, 10, 20, 20]], [0.9, 0.8])
    nothing = prediction([], [])

    found = merged([(plain_view(), inside), (plain_view(0, 0, 50, 50), nothing)], ViewsSpec(slices=50))

    assert len(found["boxes"]) == 2


def test_classes_are_merged_each_by_itself():
    seen = [(plain_view(), prediction([[0, 0, 50, 50]], [0.9], [k])) for k in (1, 2, 2)]

    for how in ("nms", "nmm"):
        assert merged(seen, ViewsSpec(merge=how))["labels"].tolist() == [1, 2]


def test_soft_nms_is_the_published_formula():
    found = soft_nms(prediction([[0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]], [0.9, 0.8, 0.7]))

    # IoU of the first two is .5: .8 exp(-.25 / .5)
    assert found["scores"].tolist() == pytest.approx([0.9, 0.7, 0.8 * np.exp(-0.5)])
    assert found["boxes"][:, 3].tolist() == [10, 60, 5]


def test_halves_of_a_mask_are_put_together():
    left = prediction([[0, 0, 12, 10]], [0.9], masks=torch.ones(1, 1, 28, 28))
    right = prediction([[8, 0, 20, 10]], [0.8], masks=torch.ones(1, 1, 28, 28))
    both = {key: torch.cat([left[key], right[key]]) for key in left}

    found = joined(both, torch.tensor([0, 1]), 0.3)  # 4 of 12 columns are common

    assert found["boxes"].tolist() == [[0, 0, 20, 10]]
    (entry,) = results_of(found, ImageInfo(0, "a", 20, 30), [{"id": 1, "name": "a"}])
    from pycocotools import mask as rle

    assert rle.decode(entry["segmentation"]).sum() == 20 * 10


@given(st.integers(1, 200), st.integers(1, 200), st.integers(30, 200), st.booleans(), st.booleans())
@settings(max_examples=30)
def test_views_see_every_pixel_and_the_plain_one_first(height, width, side, flip, whole):
    views = ViewsSpec(slices=side, flip=flip, whole=whole).of(height, width)

    seen = np.zeros((height, width), dtype=bool)
    for (top, left, h, w), scale, _ in views:
        assert scale == 1
        seen[top : top + h, left : left + w] = True
    assert seen.all()
    assert len(set(views)) == len(views)
    if whole or max(height, width) <= side:
        assert views[0] == ((0, 0, height, width), 1.0, False)


def test_what_cannot_be_merged_is_said():
    strange = prediction([], []) | {"keypoints_3d": torch.zeros(0)}
    with pytest.raises(ValueError, match=r"not by \['keypoints_3d'\]"):
        merged([(plain_view(), strange)], ViewsSpec())


def test_keypoints_go_with_the_surest_view_of_an_object_and_not_into_mirrors():
    points = torch.tensor([[[5.0, 6.0, 1.0], [20.0, 30.0, 0.0]]])
    surest = prediction([[0, 0, 40, 40]], [0.9]) | {"keypoints": points}
    other = prediction([[10, 20, 50, 60]], [0.8]) | {"keypoints": points + 3}

    found = merged([(plain_view(), other), (plain_view(20, 10, 60, 60), surest)], ViewsSpec(slices=60))

    assert found["boxes"].tolist() == [[10, 20, 50, 60]]
    assert found["keypoints"].tolist() == [[[15, 26, 1], [30, 50, 0]]]
    mirror = View.of_all((100, 100), (100, 100), mirrored=True)
    with pytest.raises(ValueError, match="leave flip out of views"):
        merged([(plain_view(), other), (mirror, surest)], ViewsSpec(flip=True))


def test_costs_of_views_add_up(monkeypatch):
    monkeypatch.setattr(
        preflight, "counted", lambda _, h, w: Cost(h * w, 3.0, {"head": (h * w, 3.0)}, frozenset({"head"}))
    )
    one = cost_of(ROW)
    flipped = cost_of(ROW.override({"data.views": {"flip": True}}))
    # an image of 200 x 200 in four slices of 120, each as large for the network as the whole
    sliced = cost_of(ROW.override({"data.views": {"slices": 120, "image": (200, 200)}}))
    larger = cost_of(ROW.override({"data.views": {"scales": (1, 2)}}))

    assert (flipped.gflops, sliced.gflops, larger.gflops) == (2 * one.gflops, 5 * one.gflops, 5 * one.gflops)
    assert flipped.params_m == one.params_m == 3
    assert sliced.parts == {"head": (5 * one.gflops, 3.0)}
    assert cost_of(ROW.override({"data.views": {"flip": True}}), (64, 96)).gflops == 64 * 96


def test_words_say_views():
    seen = seen_in(ROW, ["flip", "slices=640", "scales=0.8,1"]).data.views

    assert seen == ViewsSpec(flip=True, slices=640, scales=(0.8, 1.0))
    assert seen.label == "flip-scales0.8_1-slices640"
    assert seen_in(ROW, []) is ROW
    with pytest.raises(UsageError, match="whole=false needs slices"):
        seen_in(ROW, ["whole=false"])


def test_a_prediction_of_views_needs_no_more_than_the_batch(squares):
    data = open_dataset(spec_of(flip=True), squares, grey(200))
    batch = data.collate([data.sample(0, 0)])

    ((found, info),) = predicted(Bright().eval(), batch, data, torch.device("cpu"))

    assert info.scale == (1.0, 1.0)
    assert len(found["boxes"]) == 4
