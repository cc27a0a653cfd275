"""Glyph images: the same for the same seed, and targets that agree with the pixels."""

import numpy as np
import pytest

from piip.data.demo.glyphs import GLYPHS, glyph_image


def drawn(seed):
    return glyph_image(np.random.default_rng(seed), side=64, patch=8)


def test_a_seed_draws_the_same_image_again():
    np.testing.assert_array_equal(drawn(3).image, drawn(3).image)
    assert (drawn(3).image != drawn(4).image).any()


@pytest.mark.parametrize("seed", range(8))
def test_cells_of_a_glyph_hold_glyph_pixels_and_lie_near_their_box(seed):
    made = drawn(seed)
    share = made.mask.reshape(8, 8, 8, 8).mean(axis=(1, 3))

    glyph = made.owners > 0

    assert (share[glyph] > 1 / 8).all()
    assert made.labels.max() > 0
    assert made.labels.max() <= len(GLYPHS)
    # centre + distances span the box: its sides are never negative, and it covers part of the cell (half a cell is 4 px)
    left, top, right, bottom = made.boxes[glyph].T
    assert (left + right > 0).all()
    assert (top + bottom > 0).all()
    assert min(side.min() for side in (left, top, right, bottom)) > -4


def test_glyphs_that_look_like_shapes_of_the_demo_stay_out():
    assert not set("Oo0+") & set(GLYPHS)
