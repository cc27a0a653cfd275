"""Masks cut out of run lengths, against pycocotools."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as rle

from piip.data.runs import area, compressed_cut, cut_out, runs_of

MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=24), elements=st.integers(0, 1))


def whole(cut, height, width):
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[cut.top : cut.top + cut.mask.shape[0], cut.left : cut.left + cut.mask.shape[1]] = cut.mask
    return mask


@given(MASKS)
def test_a_cut_has_the_pixels_of_the_mask_and_goes_back_to_the_same_text(mask):
    size = mask.shape
    segmentation = {"size": list(size), "counts": rle.encode(np.asfortranarray(mask))["counts"].decode()}

    cut = cut_out(segmentation, *size)

    np.testing.assert_array_equal(whole(cut, *size), mask)
    assert cut.mask.any(axis=0).all() or not cut.mask.size or cut.mask.shape[1] <= mask.shape[1]
    assert compressed_cut(cut, *size) == segmentation
    assert area(segmentation, *size) == mask.sum()
    runs = {"size": list(size), "counts": runs_of(segmentation["counts"]).tolist()}
    np.testing.assert_array_equal(cut_out(runs, *size).mask, cut.mask)


@given(
    st.lists(
        st.lists(st.floats(-20, 60), min_size=6, max_size=12).map(lambda p: p[: len(p) // 2 * 2]),
        min_size=1,
        max_size=3,
    )
)
def test_polygons_are_rasterised_as_pycocotools_does(polygons):
    expected = rle.decode(rle.merge(rle.frPyObjects(polygons, 30, 40)))

    np.testing.assert_array_equal(whole(cut_out(polygons, 30, 40), 30, 40), expected)


def test_a_cut_is_as_large_as_its_object():
    corners = [100, 200, 150, 200, 150, 230, 100, 230]

    cut = cut_out([corners], 4000, 4000)

    assert (cut.mask.shape, cut.top, cut.left) == ((30, 50), 200, 100)


@pytest.mark.parametrize("counts", ["~", "o", "0P", "P" * 14 + "0", "\ud800", "é"])
def test_text_that_is_no_run_lengths_is_none(counts):
    assert runs_of(counts) is None
