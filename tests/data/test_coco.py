import json
import logging

import numpy as np
import pytest
import torch
from inputs import grey
from PIL import Image

from piip.data.formats.coco import CocoDataset
from piip.data.sources import DataError
from piip.ops.mask_runs import array_of
from piip.spec import CocoSpec

PLAIN = CocoSpec(name="custom", short_ratio=1.0, pad_multiple=32, flip=0.0)


def opened(source, *, training=True, spec=PLAIN, resolution=64, masks=True, **more):
    return CocoDataset(source, spec, grey(resolution, masks=masks), training=training, **more)


def masks_of(sample):
    """(n, h, w) of a training sample."""
    return array_of(sample.target["mask_runs"], torch.arange(len(sample.target["labels"])), sample.image.shape[1:])


def test_labels_follow_category_ids_in_order(tiny_coco):
    data = opened(tiny_coco)

    assert [c["id"] for c in data.classes] == [2, 7, 9]
    assert data.sample(0, 0).target["labels"].tolist() == [1, 3]  # annotated: 2, then 9
    assert data.sample(1, 0).target["labels"].tolist() == [2]


def test_boxes_are_scaled_with_the_image(tiny_coco):
    sample = opened(tiny_coco, resolution=128).sample(0, 0)  # 48 x 64 becomes 96 x 128

    assert sample.image.shape == (3, 96, 128)
    assert sample.info.scale == (2.0, 2.0)
    assert sample.target["boxes"].tolist() == [[16, 16, 56, 48], [60, 20, 108, 80]]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_masks_of_every_form_fill_their_boxes(index, tiny_coco):
    sample = opened(tiny_coco, resolution=192).sample(index, 0)

    for box, mask in zip(sample.target["boxes"].round().int().tolist(), masks_of(sample), strict=True):
        x0, y0, x1, y1 = box
        inside = mask[y0:y1, x0:x1].sum()
        assert inside == mask.sum()
        assert inside >= (x1 - x0) * (y1 - y0) - 4  # enlarging rounds the four corners


def test_crowds_are_not_trained_on_and_images_without_objects_are_kept(tiny_coco):
    data = opened(tiny_coco)

    assert len(data) == 4
    assert data.sample(2, 0).target["labels"].tolist() == [3]
    empty = data.sample(3, 0).target
    assert empty["boxes"].shape == (0, 4)
    assert empty["mask_runs"].shape == (0, 4)


def test_boxes_outside_their_image_are_left_out_and_counted(coco_folder, caplog):
    image = coco_folder.add_image()
    for box in ((8, 8, 20, 16), (70, 8, 20, 16), (8, 8, 0, 16)):
        coco_folder.add_object(image, box)

    with caplog.at_level(logging.WARNING):
        data = opened(coco_folder.write())

    assert len(data.sample(0, 0).target["boxes"]) == 1
    assert "2 boxes left out of training: outside their image" in caplog.text


def test_a_box_that_reaches_out_is_clamped(coco_folder):
    coco_folder.add_object(coco_folder.add_image(), (50, 40, 30, 30))
    assert opened(coco_folder.write()).sample(0, 0).target["boxes"].tolist() == [[50, 40, 64, 48]]


def test_augmentation_is_decided_by_index_and_seed(tiny_coco):
    spec = PLAIN.override({"flip": 0.5, "train_scales": (0.5, 0.75, 1.0)})
    first, second = opened(tiny_coco, spec=spec), opened(tiny_coco, spec=spec)
    second.sample(1, 5)  # whatever was drawn before

    same = [torch.equal(first.sample(0, seed).image, second.sample(0, seed).image) for seed in range(8)]
    shapes = {tuple(first.sample(0, seed).image.shape) for seed in range(30)}

    assert all(same)
    assert shapes == {(3, 24, 32), (3, 36, 48), (3, 48, 64)}


def test_a_flipped_sample_is_the_mirror_image(tiny_coco):
    plain, mirrored = opened(tiny_coco).sample(0, 0), opened(tiny_coco, spec=PLAIN.override({"flip": 1.0})).sample(0, 0)

    assert torch.equal(mirrored.image, plain.image.flip(2))
    assert torch.equal(masks_of(mirrored), masks_of(plain).flip(2))
    assert mirrored.target["boxes"][0].tolist() == [36, 8, 56, 24]  # 64 - 28, 64 - 8


def test_evaluation_neither_augments_nor_has_targets(tiny_coco):
    data = opened(tiny_coco, spec=PLAIN.override({"flip": 1.0, "train_scales": (0.5,)}), training=False)
    assert data.sample(0, 0).target is None
    assert data.sample(0, 0).image.shape == (3, 48, 64)


def test_a_missing_image_is_told_when_the_data_is_opened(tiny_coco):
    (tiny_coco.images / "000000000013.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 4 images not found in .*, first '000000000013\.jpg' \(image 13\)"):
        opened(tiny_coco)


def test_a_broken_image_is_refused_by_name(tiny_coco):
    (tiny_coco.images / "000000000013.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"000000000013\.jpg"):
        opened(tiny_coco).sample(1, 0)


def test_a_broken_image_is_skipped_for_the_next_good_one(tiny_coco, caplog):
    for name in ("000000000016.jpg", "000000000019.jpg"):
        path = tiny_coco.images / name
        path.write_bytes(path.read_bytes()[:700])
    data = opened(tiny_coco, spec=PLAIN.override({"broken_images": "skip"}))

    ids = [data.sample(index, 0).info.image_id for index in (0, 1, 2, 3, 2)]

    assert ids == [10, 13, 10, 10, 10]
    assert sorted(data.broken) == ["000000000016.jpg", "000000000019.jpg"]
    assert caplog.text.count("skipped: ") == 2


def test_where_every_image_is_broken_skipping_ends(tiny_coco):
    for path in tiny_coco.images.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of 4 images can be used"):
        opened(tiny_coco, spec=PLAIN.override({"broken_images": "skip"})).sample(0, 0)


def test_an_image_that_lies_on_its_side_is_turned_as_annotated(coco_folder):
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    image_id = coco_folder.add_image(20, 40, "turned.jpg")  # the JSON has it upright: 40 high
    coco_folder.add_object(image_id, (2, 2, 10, 30))
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(coco_folder.images / "turned.jpg", exif=exif)

    sample = opened(coco_folder.write(), resolution=40).sample(0, 0)

    assert sample.image.shape == (3, 40, 20)
    assert sample.target["boxes"].tolist() == [[2, 2, 12, 32]]


def test_the_digest_follows_annotations_and_image_files(tiny_coco):
    first = opened(tiny_coco).digest
    assert len(first) == 16
    assert opened(tiny_coco, training=False).digest == first
    assert opened(tiny_coco, max_images=2).digest != first

    path = tiny_coco.images / "000000000010.jpg"
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    assert opened(tiny_coco).digest != first
    path.write_bytes(content)
    assert opened(tiny_coco).digest == first

    document = json.loads(tiny_coco.annotations.read_text())
    document["annotations"][0]["bbox"][0] += 1
    tiny_coco.annotations.write_text(json.dumps(document))
    assert opened(tiny_coco).digest != first


class TestBoxesAlone:
    """Annotations without masks."""

    @pytest.fixture
    def bare(self, tiny_coco):
        document = json.loads(tiny_coco.annotations.read_text())
        for annotation in document["annotations"]:
            del annotation["segmentation"]
        tiny_coco.annotations.write_text(json.dumps(document))
        return tiny_coco

    def test_they_are_scored(self, bare):
        data = opened(bare, training=False)
        metric = data.metric()
        for index, info in enumerate(data.infos):
            metric.update([a | {"score": 1.0} for a in data.truth(index) if not a["iscrowd"]], info)

        assert metric.compute()["coco/box_ap"] == pytest.approx(1.0)

    def test_a_head_that_learns_masks_is_told_so(self, bare):
        with pytest.raises(
            DataError, match=r"instances\.json: annotation 101 of image 10 has a box and no mask .*Mask R-CNN"
        ):
            opened(bare)

    @pytest.mark.parametrize("flip", [0.0, 1.0])
    def test_a_head_that_learns_boxes_is_served(self, bare, flip):
        target = opened(bare, masks=False, spec=PLAIN.override({"flip": flip})).sample(0, 0).target

        assert set(target) == {"boxes", "labels"}
        assert len(target["boxes"]) == 2

    def test_where_masks_are_there_and_not_learned_none_are_made(self, tiny_coco):
        with_masks, without = (opened(tiny_coco, masks=masks).sample(0, 0).target for masks in (True, False))

        assert "mask_runs" not in without
        assert torch.equal(with_masks["boxes"], without["boxes"])


def test_the_fullest_images_are_the_examples(tiny_coco):
    data = opened(tiny_coco, training=False)

    assert [len(data.truth(index)) for index in range(4)] == [2, 1, 2, 0]
    assert data.examples(2) == [0, 2]
    assert data.examples(9) == [0, 2, 1, 3]
