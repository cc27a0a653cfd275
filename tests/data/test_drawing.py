from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from piip.console import one_line
from piip.data.drawing import READABLE, color_of, draw_lines, draw_predictions, sheet, side_by_side

NAMES = {1: "star", 7: "мост"}
GREY = (90, 90, 90)


def grey(width=200, height=100):
    return Image.new("RGB", (width, height), GREY)


def square_mask(height=100, width=200, x=100, y=40, side=40):
    mask = np.zeros((height, width), np.uint8)
    mask[y : y + side, x : x + side] = 1
    return mask


def prediction(segmentation=None, score=0.9, category=1):
    found = {"category_id": category, "bbox": [100.0, 40.0, 40.0, 40.0], "score": score}
    return found if segmentation is None else found | {"segmentation": segmentation}


def test_small_images_grow_by_a_whole_factor_and_large_ones_stay():
    assert draw_predictions(grey(200, 100), [], NAMES).size == (600, 300)
    assert draw_predictions(grey(READABLE, 100), [], NAMES).size == (READABLE, 100)


def test_all_forms_of_a_mask_paint_the_same_pixels():
    mask = square_mask()
    compressed = rle.encode(np.asfortranarray(mask))
    runs = [100 * 100 + 40] + [40, 60] * 39 + [40, 20 + 60 * 100]
    forms = [
        mask, mask.astype(bool), compressed, compressed | {"counts": compressed["counts"].decode()},
        {"size": [100, 200], "counts": runs}, [[100, 40, 140, 40, 140, 80, 100, 80]],
    ]  # fmt: skip

    drawn = [np.asarray(draw_predictions(grey(), [prediction(form)], NAMES)) for form in forms]

    for other in drawn[1:]:
        np.testing.assert_array_equal(drawn[0], other)
    inside, outside = drawn[0][60 * 3, 120 * 3], drawn[0][280, 20]
    assert tuple(outside) == GREY
    blend = [round(0.62 * a + 0.38 * b) for a, b in zip(GREY, color_of(1), strict=True)]
    assert np.abs(inside.astype(int) - blend).max() <= 2


def test_a_box_has_its_class_colour_and_weak_predictions_are_left_out():
    picture = np.asarray(draw_predictions(grey(), [prediction(category=7)], NAMES))
    assert tuple(picture[60 * 3, 100 * 3]) == color_of(7)

    weak = np.asarray(draw_predictions(grey(), [prediction(score=0.3)], NAMES))
    assert tuple(weak[60 * 3, 100 * 3]) == GREY
    assert (weak[:20] != GREY).any(), "a picture with nothing on it says why"


def test_ground_truth_without_score_is_always_drawn():
    truth = {"category_id": 1, "bbox": [100, 40, 40, 40], "segmentation": [[100, 40, 140, 40, 140, 80]]}

    picture = np.asarray(draw_predictions(grey(), [truth], NAMES, score_threshold=0.99))

    assert tuple(picture[60 * 3, 100 * 3]) == color_of(1)


@pytest.mark.parametrize("size", [(200, 100), (520, 300), (1000, 700)])
def test_a_mask_is_painted_as_if_the_whole_image_were_looked_at(size):
    mask = (np.random.default_rng(0).random((size[1], size[0])) < 0.7).astype(np.uint8)
    for rows, columns in (
        (slice(40, 80), slice(60, 130)),
        (slice(0, 30), slice(0, 25)),
        (slice(-9, None), slice(-50, None)),
    ):
        part = np.zeros_like(mask)
        part[rows, columns] = mask[rows, columns]
        found = {"category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.9}
        cut = rle.encode(np.asfortranarray(part))  # an array is looked at whole

        drawn = [
            np.asarray(draw_predictions(grey(*size), [found | {"segmentation": form}], {})) for form in (part, cut)
        ]

        np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize("name", ["bolt\n", "a\x00b", "two\u2028lines", "\u202eback", "tab\there", "\x1b[31mred"])
def test_names_that_would_leave_their_line_are_drawn_on_it(name):
    plain = one_line(name)
    assert plain.isprintable()

    drawn = [np.asarray(draw_predictions(grey(), [prediction()], {1: text})) for text in (name, plain)]
    lines = [np.asarray(draw_lines(grey(), [(text, 1)])) for text in (name, plain)]

    np.testing.assert_array_equal(*drawn)
    np.testing.assert_array_equal(*lines)


def test_a_mask_without_a_pixel_is_not_painted():
    nothing = {"size": [100, 200], "counts": [20000]}

    with_mask, without = (draw_predictions(grey(), [prediction(form)], NAMES) for form in (nothing, None))

    assert with_mask.tobytes() == without.tobytes()


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P"])
def test_images_of_any_mode_can_be_drawn_on(mode):
    assert draw_predictions(Image.new(mode, (300, 200)), [prediction()], NAMES).mode == "RGB"


def test_labels_stay_inside_and_unknown_categories_are_named_by_id():
    edge = {"category_id": 99, "bbox": [190, 0, 10, 10], "score": 1.0}
    assert draw_predictions(grey(), [edge], {}).size == (600, 300)


def test_colours_of_neighbouring_classes_differ():
    colors = [np.array(color_of(k)) for k in range(1, 91)]

    assert min(np.abs(a - b).sum() for a, b in pairwise(colors)) > 60
    assert all(c.min() >= 0 and c.max() <= 255 for c in colors)


def test_a_sheet_keeps_every_image_whole():
    page = sheet([grey(30, 20), grey(50, 10), grey(40, 40)], 2, padding=5)

    assert page.size == (40 + 50 + 15, 20 + 40 + 15)
    assert side_by_side(grey(), grey()).width > 400
    with pytest.raises(ValueError, match="at least one image and one column, got 0 and 2"):
        sheet([], 2)
