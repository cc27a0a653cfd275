"""Keypoints from a file to what training sees, and back from a network to results and pictures."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from piip.contracts import Input
from piip.data import open_dataset
from piip.data.demo.keypoints import NAMES
from piip.data.demo.make import Recipe, make_demo
from piip.data.formats.coco_keypoints import mirrored_order
from piip.data.samples import ImageInfo
from piip.data.sources import DataError, Source
from piip.presets import detector_pico, pico
from piip.spec import KeypointsSpec

WANTED = Input(96, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), masks=False, keypoints=4)
SPEC = KeypointsSpec(name="demo", short_ratio=1.0, pad_multiple=32, flip=0.0)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("keypoints") / "demo"
    make_demo(out, Recipe(train=6, val=2, maps=1, crops=1, sides=(96, 128), objects=(24, 76)))
    return Source(out / "annotations" / "keypoints_train.json", out / "train")


def samples(source, **fields):
    data = open_dataset(SPEC.override(fields), source, WANTED, training=True)
    return data, [data.sample(index, 0).target for index in range(len(data))]


def test_keypoints_are_the_sides_of_boxes(small):
    """Of objects that nothing hides: the highest point is as high as the box, and so on."""
    document = json.loads(small.annotations.read_text())
    instances = json.loads(small.annotations.with_name("instances_train.json").read_text())
    whole = [a for a in document["annotations"] if isinstance(a["segmentation"], list)]

    for annotation in whole:
        points = np.array(annotation["keypoints"]).reshape(4, 3)
        x, y, w, h = annotation["bbox"]
        assert [points[0, 1], points[1, 0], points[2, 1], points[3, 0]] == pytest.approx([y, x + w, y + h, x], abs=0.02)
        assert (points[:, 2] == 2).all()
    assert len(whole) > 5
    extra = {"keypoints", "num_keypoints"}
    assert instances["annotations"] == [{k: v for k, v in a.items() if k not in extra} for a in document["annotations"]]


def test_training_sees_them_where_the_objects_are_mirrored_or_not(small):
    _, straight = samples(small)
    _, mirrored = samples(small, flip=1.0)

    for target, flipped in zip(straight, mirrored, strict=True):
        points, other = target["keypoints"], flipped["keypoints"]
        assert points.shape == (len(target["boxes"]), 4, 3)
        width = (target["boxes"][:, 0] + flipped["boxes"][:, 2])[:1]  # of the image: a box's left becomes its right
        swapped = other[:, [0, 3, 2, 1]]
        torch.testing.assert_close(swapped[..., 0], width - points[..., 0], atol=1e-3, rtol=0)
        torch.testing.assert_close(swapped[..., 1:], points[..., 1:], atol=1e-3, rtol=0)
        assert (other[:, 1, 0] >= other[:, 3, 0]).all()  # right is right
    assert sum(len(target["boxes"]) for target in straight) > 5


def test_what_else_is_learned_is_the_same_with_keypoints_and_without(small):
    bare = open_dataset(SPEC, small, Input(96, WANTED.mean, WANTED.std, masks=False), training=True)

    data, targets = samples(small)

    for index, target in enumerate(targets):
        mine, other = data.sample(index, 3), bare.sample(index, 3)
        assert torch.equal(mine.image, other.image)
        assert other.target.keys() == target.keys() - {"keypoints"}
        assert torch.equal(mine.target["boxes"], other.target["boxes"])


def test_a_mosaic_moves_keypoints_with_their_objects(small):
    _, targets = samples(small, mosaic=1.0)

    for target in targets:
        points, boxes = target["keypoints"], target["boxes"]
        seen = points[..., 2] > 0
        low, high = boxes[:, None, :2] - 1, boxes[:, None, 2:] + 1
        whole = ((points[..., :2] >= low) & (points[..., :2] <= high)).all(dim=-1)
        assert (whole | ~seen).float().mean() > 0.9  # others are hidden behind an object, outside the seen part's box
    assert sum(len(target["boxes"]) for target in targets) > 10


def test_results_drawings_and_scores(small):
    data = open_dataset(SPEC, small, WANTED)
    info = ImageInfo(data.infos[0].image_id, "a.jpg", 60, 80, scale=(2.0, 0.5))
    prediction = {
        "boxes": torch.tensor([[4.0, 20, 30, 100]]), "labels": torch.tensor([2]), "scores": torch.tensor([0.75]),
        "keypoints": torch.tensor([[[10.0, 20, 1], [30, 60, 1], [12, 100, 1], [4, 50, 1]]]),
    }  # fmt: skip

    (result,) = data.to_file(prediction, info)

    assert result["keypoints"] == [20, 10, 1, 60, 30, 1, 24, 50, 1, 8, 25, 1]
    table = data.to_table([(info, [result])])
    assert data.from_table(table, info) == [result]
    assert data.to_table([(info, [])]).schema == table.schema
    image = Image.new("RGB", (80, 60))
    bare = {key: value for key, value in result.items() if key != "keypoints"}
    assert np.asarray(data.draw(image, [result])).sum() > np.asarray(data.draw(image, [bare])).sum()  # white dots

    metric = data.metric()
    for index, own in enumerate(data.infos):
        found = ({k: a[k] for k in ("image_id", "category_id", "bbox", "keypoints")} for a in data.truth(index))
        metric.update([one | {"score": 0.9} for one in found], own)
    assert metric.compute()["coco/keypoint_ap"] == pytest.approx(1.0)


def test_left_and_right_change_places_by_name():
    def order(*names):
        points = {"annotations": [{"keypoints": [1, 1, 2] * len(names)}]}
        return mirrored_order(points | {"categories": [{"id": 1, "keypoints": list(names)}]}, len(names))

    assert order("nose", "left_eye", "right_eye", "left_ear", "right_ear") == [0, 2, 1, 4, 3]
    assert order(*NAMES) == [0, 3, 2, 1]
    assert order("left_wing", "tail") == [0, 1]  # there is no other wing


def test_keypoints_that_the_head_cannot_learn_are_refused(small, tmp_path):
    row = detector_pico("keypoint_rcnn", pico("TB", (96, 64)), steps=2)
    seventeen = row.override({"model.head.num_keypoints": 17}).model.input
    with pytest.raises(
        DataError, match=r"objects have 4 keypoints, the head learns 17\. Set model.head.num_keypoints to 4"
    ):
        open_dataset(SPEC, small, seventeen, training=True)
    document = json.loads(small.annotations.read_text())
    for annotation in document["annotations"]:
        del annotation["keypoints"], annotation["num_keypoints"]
    none = tmp_path / "none.json"
    none.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"objects have no keypoints, the head learns 4\. Take a head that learns none"):
        open_dataset(SPEC, Source(none, small.images), WANTED, training=True)
    with pytest.raises(ValueError, match="head 'keypoint_rcnn' learns keypoints, data of kind 'coco' have none"):
        row.override({"data.kind": "coco"})
    with pytest.raises(ValueError, match="copy_paste cuts objects by their masks and loses keypoints"):
        row.override({"data.copy_paste": 0.5})
    with pytest.raises(ValueError, match=r"data\.views merges boxes and masks, not keypoints"):
        row.override({"data.views": {}})
