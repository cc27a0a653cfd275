import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from inputs import grey
from pycocotools import mask as rle

from piip.data import open_dataset
from piip.data.formats.coco_faults import find_problems
from piip.data.formats.coco_json import read, read_checked
from piip.data.formats.coco_shapes import segmentation_fault
from piip.data.masks import compressed
from piip.data.sources import DataError
from piip.spec import CocoSpec


def test_good_data_has_no_problems(tiny_coco):
    assert list(find_problems(read(tiny_coco.annotations))) == []


def _set(key, value, entry="annotations"):
    def change(document):
        document[entry][0][key] = value

    return change


def _again(entry):
    return lambda document: document[entry].append(dict(document[entry][0]))


DAMAGE = {
    "annotation 101 is for image 999, which is not in images": _set("image_id", 999),
    "annotation 101 has category 3, which is not in categories": _set("category_id", 3),
    r"annotation 101 of image 10 has bbox \[8, 8, -20, 16\]": _set("bbox", [8, 8, -20, 16]),
    r"annotation 101 of image 10 has bbox \[8, nan, 20, 16\]": _set("bbox", [8, float("nan"), 20, 16]),
    "annotation 101 of image 10 has bbox None": _set("bbox", None),
    "annotation 101 of image 10 has area nan": _set("area", float("nan")),
    "annotation 101 of image 10 has bbox .* reaches more than 100000 pixels out of": _set("bbox", [8, 8, 1e300, 16]),
    "annotation 101 of image 10 has bbox .*finite numbers": _set("bbox", [8, 8, 10**400, 16]),
    "annotation 101 of image 10: a polygon reaches 4.29497e": _set("segmentation", [[4294967295, 13, 38, 13, 38, 47]]),
    "annotation 101 of image 10: a polygon reaches -100001,": _set("segmentation", [[1, 13, 38, -1e5 - 1, 38, 47]]),
    "annotation 101 of image 10: a polygon has a coordinate that is not": _set(
        "segmentation", [[1, 2, 3, 10**400, 5, 6]]
    ),
    "annotation 101 of image 10: a polygon is 1600000 pixels around": _set("segmentation", [[0, 0, 8e4, 0] * 10]),
    "annotation 101 of image 10: RLE runs do not": _set(
        "segmentation", {"size": [48, 64], "counts": [10**30, -(10**30)]}
    ),
    "annotation 101 of image 10: segmentation is neither": _set("segmentation", {}),
    "annotation 101 of image 10 has iscrowd '0'; 0 or 1": _set("iscrowd", "0"),
    "annotation 101 of image 10 has iscrowd 2; 0 or 1": _set("iscrowd", 2),
    r"annotation 101 of image 10 has iscrowd \[\]; 0 or 1": _set("iscrowd", []),
    "image number 0 has id 10.0; an integer of at most 63 bits": _set("id", 10.0, "images"),
    "image number 0 has id True; an integer of at most 63 bits": _set("id", True, "images"),
    "category number 0 has id 9223372036854775808; an integer": _set("id", 2**63, "categories"),
    "image 10 .* has 100000 x 64000 pixels; at most 178 million": lambda d: d["images"][0].update(
        height=10**5, width=64000
    ),
    "annotation 101 of image 10: a polygon needs": _set("segmentation", [[1, 2, 3, 4]]),
    "annotation 101 of image 10: a polygon has a coordinate": _set("segmentation", [[1, 2, 3, float("inf"), 5, 6]]),
    r"annotation 101 of image 10: RLE of size \[5, 5\], but the image is \[48, 64\]": _set(
        "segmentation", {"size": [5, 5], "counts": [25]}
    ),
    "annotation 101 of image 10: RLE runs do not add up to the image's 3072 pixels": _set(
        "segmentation", {"size": [48, 64], "counts": [10, 10]}
    ),
    "annotation id 101 is there twice": _again("annotations"),
    "annotation number 0 has id '101'": _set("id", "101"),
    "image id 10 is there twice": _again("images"),
    "image 10 .* has height 0, width 64": _set("height", 0, "images"),
    "image 10 has file_name None": _set("file_name", None, "images"),
    "category id 9 is there twice": _again("categories"),
    "category 9 has no name": _set("name", None, "categories"),
    "category 9 has no name.*": _set("name", "\n\t", "categories"),
    "category 9 has no name *": _set("name", "a\ud800", "categories"),
    "no categories: the list is empty": lambda d: d["categories"].clear(),
    "no images: the list is empty": lambda d: [d[part].clear() for part in ("images", "annotations")],
    "0 of 0 objects can be learned or scored": lambda d: d["annotations"].clear(),
    "0 of 1 objects can be learned or scored: 1 crowds": _set("iscrowd", 1),
    "0 of 1 objects can be learned or scored: 1 outside their image": _set("bbox", [64, 8, 20, 16]),
    "0 of 1 objects can be learned or scored: 1 under a pixel": _set("bbox", [8, 8, 0.9, 16]),
    r"all 1 boxes lie within 0\.\.1: these look like fractions": _set("bbox", [0.1, 0.2, 0.9, 0.8]),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damage_is_refused_with_the_file_and_the_id(message, coco_folder):
    coco_folder.add_object(coco_folder.add_image())
    DAMAGE[message](coco_folder.document)
    source = coco_folder.write()

    with pytest.raises(DataError, match=rf"instances\.json: .*{message}"):
        read_checked(source.annotations)


def test_only_the_first_problem_is_told_and_the_others_counted(coco_folder):
    image = coco_folder.add_image()
    for _ in range(3):
        coco_folder.add_object(image, category=4)

    with pytest.raises(DataError, match=r"annotation 101 has category 4.*\(2 more: python -m piip\.data\.check"):
        read_checked(coco_folder.write().annotations)


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (0, " is empty"),
        (1, ": not complete JSON .*the file has 1 bytes"),
        (300, ": not complete JSON .*the file has 300 bytes"),
    ],
)
def test_a_truncated_file_is_named(keep, said, tiny_coco):
    tiny_coco.annotations.write_bytes(tiny_coco.annotations.read_bytes()[:keep])

    with pytest.raises(DataError, match=rf"instances\.json{said}"):
        read_checked(tiny_coco.annotations)


def test_json_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"images": [], "annotations": {}}')
    with pytest.raises(DataError, match="it has no list 'annotations', 'categories'"):
        read(tmp_path / "a.json")
    with pytest.raises(DataError, match="annotations not found"):
        read(tmp_path / "b.json")


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1)))
def test_every_rle_pycocotools_writes_is_accepted(mask):
    assert segmentation_fault(compressed(mask), mask.shape) is None


@given(
    arrays(np.uint8, (20, 20), elements=st.integers(0, 1)),
    st.integers(0, 30),
    st.sampled_from("0Po1~ é"),
    st.booleans(),
)
def test_an_rle_that_pycocotools_would_misread_is_refused(mask, position, character, cut):
    counts = compressed(mask)["counts"]
    damaged = counts[:position] if cut else counts[:position] + character + counts[position + 1 :]

    if segmentation_fault({"size": [20, 20], "counts": damaged}, (20, 20)) is None:
        assert rle.decode({"size": [20, 20], "counts": damaged}).shape == (20, 20)


def test_a_byte_order_mark_and_utf_16_are_read(tiny_coco):
    plain = tiny_coco.annotations.read_text()
    before = read_checked(tiny_coco.annotations)

    for content in (b"\xef\xbb\xbf" + plain.encode(), plain.encode("utf-16"), plain.encode("utf-16-le")):
        tiny_coco.annotations.write_bytes(content)
        assert read_checked(tiny_coco.annotations) == before


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"iscrowd": 0', '"iscrowd": 0, "iscrowd": 1', "'iscrowd' is there twice in one object, .*'id': 101"),
        ('"images": ', '"images": [], "images": ', "'images' is there twice in one object"),
        ('"iscrowd": 0', '"iscrowd": ' + "9" * 5000, "not complete JSON .*digits"),
        ('"iscrowd": 0', '"iscrowd": ' + "[" * 10**5, "not complete JSON .*recursion"),
        ('"iscrowd": 0', '"iscrowd": "\xe9"', "not text in UTF-8"),
    ],
)  # fmt: skip
def test_what_readers_would_take_differently_is_refused(before, after, said, tiny_coco):
    text = tiny_coco.annotations.read_text()
    tiny_coco.annotations.write_bytes(text.replace(before, after, 1).encode("latin-1"))

    with pytest.raises(DataError, match=rf"instances\.json: {said}"):
        read_checked(tiny_coco.annotations)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda d: d["categories"][1].update(name="kite\n"), "two categories of one name", "category 2 is called 'kite' as category 9 is"),
        (lambda d: d["images"][1].update(file_name="000000000010.jpg"), "one file of two images", "image 13 is the file of image 10"),
        (lambda d: d["annotations"][0].update(segmentation=[]), "no mask", "annotation 101 of image 10 has no mask"),
        (lambda d: d["annotations"][0].update(bbox=[8, 8, 20, 0.5]), "box under a pixel", "annotation 101 .* less than a pixel"),
    ],
)  # fmt: skip
def test_what_one_should_know_is_said_and_forgiven(change, kind, said, tiny_coco):
    document = read(tiny_coco.annotations)
    change(document)

    (problem,) = find_problems(document)

    assert (problem.kind, problem.fatal) == (kind, False)
    assert re.search(said, problem.message)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["categories"][1].update(name="kite"), ["1 x two categories of one name, first: category 2 is called 'kite'"]),
        (lambda d: [i.update(file_name="000000000010.jpg") for i in d["images"]],
         ["3 x one file of two images, first: image 13 is the file of image 10"]),
        (lambda d: d["annotations"][0].update(segmentation=[]), []),
    ],
)  # fmt: skip
def test_training_hears_of_what_no_figure_would_tell(change, said, tiny_coco, caplog):
    document = json.loads(tiny_coco.annotations.read_text())
    change(document)
    tiny_coco.annotations.write_text(json.dumps(document))

    read_checked(tiny_coco.annotations)

    assert [
        re.sub(r"^.*instances\.json: ", "", line)[: len(told)] for line, told in zip(caplog.messages, said, strict=True)
    ] == said


@pytest.mark.parametrize("value", [0, 1, True, False, None, 0.0, 1.0])
def test_every_word_for_a_crowd_means_the_same_to_training_and_scoring(value, coco_folder):
    image = coco_folder.add_image()
    coco_folder.add_object(image, (30, 10, 24, 30), iscrowd=value)
    coco_folder.add_object(image, (8, 8, 20, 16))
    source = coco_folder.write()

    training, scoring = (
        open_dataset(CocoSpec(name="custom"), source, grey(64), training=training) for training in (True, False)
    )
    metric = scoring.metric()
    found = [{"image_id": image, "category_id": 2, "bbox": [8, 8, 20, 16], "score": 1.0}]
    metric.update(found, scoring.infos[0])

    learned = len(training.sample(0, 0).target["boxes"])
    assert learned == (1 if value else 2)
    assert metric.compute()["coco/box_ar100"] == pytest.approx(1 / learned)
