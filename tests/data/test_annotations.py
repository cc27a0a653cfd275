import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as rle

from piip.data.formats.coco_faults import find_problems, segmentation_fault
from piip.data.formats.coco_json import read, read_checked
from piip.data.masks import compressed
from piip.data.sources import DataError


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
    "annotation 101 of image 10: segmentation is empty": _set("segmentation", []),
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


@pytest.mark.parametrize("keep", [0, 1, 300])
def test_a_truncated_file_is_named(keep, tiny_coco):
    tiny_coco.annotations.write_bytes(tiny_coco.annotations.read_bytes()[:keep])

    with pytest.raises(DataError, match=rf"instances\.json: not complete JSON .*the file has {keep} bytes"):
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
