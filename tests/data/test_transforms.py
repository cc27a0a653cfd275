import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from piip.data.runs import Cut
from piip.data.transforms import detection as transforms
from piip.data.transforms.views import View
from piip.ops.mask_runs import array_of, flipped
from piip.spec import CocoSpec

sides = st.integers(1, 400)
fractions = st.floats(0, 1, width=32)


def plain(tensor):
    return tensor.as_subclass(torch.Tensor)


@st.composite
def boxes_in_image(draw):
    """Boxes (n, 4) inside an image, and its (height, width)."""
    height, width = draw(sides), draw(sides)
    corners = draw(st.lists(st.tuples(*[fractions] * 4), max_size=5))
    boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 2, 2).sort(dim=1).values.reshape(-1, 4)
    return transforms.boxes_of(boxes * torch.tensor([width, height] * 2), (height, width)), (height, width)


@given(boxes_in_image())
def test_flipping_twice_changes_nothing(case):
    boxes, (height, width) = case
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    masks = torch.randint(0, 2, (len(boxes), height, width), dtype=torch.uint8)

    mirror = View.of_all((height, width), (height, width), mirrored=True)
    runs = mirror.mask_runs(Cut(mask.numpy(), 0, 0) for mask in masks)

    assert torch.equal(plain(mirror.image(plain(mirror.image(image)))), image)
    torch.testing.assert_close(plain(mirror.boxes(mirror.boxes(boxes))), plain(boxes), atol=1e-4, rtol=0)
    assert torch.equal(array_of(flipped(runs, width), torch.arange(len(boxes)), (height, width)), masks)


@given(boxes_in_image())
def test_flipping_mirrors_boxes(case):
    boxes, (height, width) = case
    x0, y0, x1, y1 = plain(boxes).unbind(1)

    mirrored = View.of_all((height, width), (height, width), mirrored=True).boxes(boxes)

    torch.testing.assert_close(plain(mirrored), torch.stack([width - x1, y0, width - x0, y1], 1), atol=1e-4, rtol=0)


@given(boxes_in_image(), sides, sides)
def test_resizing_keeps_boxes_relative_to_the_image(case, height, width):
    boxes, (old_height, old_width) = case

    resized = transforms.resize_boxes(boxes, (height, width))

    before = plain(boxes) / torch.tensor([old_width, old_height] * 2)
    after = plain(resized) / torch.tensor([width, height] * 2)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


@given(boxes_in_image())
def test_usable_boxes_are_inside_the_image_and_a_pixel_wide(case):
    boxes, (height, width) = case
    shifted = transforms.boxes_of(plain(boxes) - 0.3 * width, (height, width))

    clamped, keep = transforms.usable(shifted)

    assert type(clamped) is torch.Tensor
    x0, y0, x1, y1 = clamped[keep].unbind(1)
    assert ((x0 >= 0) & (y0 >= 0) & (x1 <= width) & (y1 <= height) & (x1 - x0 >= 1) & (y1 - y0 >= 1)).all()


@pytest.mark.parametrize(
    ("height", "width", "resolution", "expected"),
    [
        # limits of the released configs: (R, floor(R * 800 / 1333)), so (1568, 941), (1120, 672), (1333, 800)
        (480, 640, 1568, (941, 1255)),
        (640, 480, 1568, (1255, 941)),
        (480, 640, 1120, (672, 896)),
        (427, 640, 1333, (800, 1199)),
        (300, 900, 1333, (444, 1333)),
    ],
)
def test_sizes_are_those_of_the_released_configs(height, width, resolution, expected):
    limits = CocoSpec().limits(resolution, training=True)

    assert transforms.resized_size(height, width, limits) == expected


@given(sides, sides, st.integers(32, 2000), st.floats(0.3, 1), st.floats(0.5, 2))
def test_resized_images_touch_a_limit_and_pass_none(height, width, resolution, short_ratio, scale):
    limits = CocoSpec(short_ratio=short_ratio).limits(resolution, training=True)

    size = transforms.resized_size(height, width, limits, scale=scale)

    long_limit, short_limit = resolution * scale, math.floor(resolution * short_ratio) * scale
    assert max(size) <= long_limit + 0.5
    assert min(size) <= max(short_limit + 0.5, 1)
    assert max(size) >= long_limit - 0.5 or min(size) >= short_limit - 0.5


def test_padding_is_zero_right_and_below_up_to_a_multiple():
    images = [torch.ones(3, 30, 50), torch.ones(3, 40, 20)]

    batch = transforms.pad(images, 32)

    assert batch.shape == (2, 3, 64, 64)
    assert batch[0, :, :30, :50].all()
    assert batch[0].sum() == 3 * 30 * 50
    assert batch[1].sum() == 3 * 40 * 20


def test_an_image_of_the_mean_colour_is_zero():
    image = torch.full((3, 4, 4), 128, dtype=torch.uint8)
    assert (transforms.normalise(image, (128, 128, 128), (50, 50, 50)) == 0).all()
    torch.testing.assert_close(transforms.normalise(image, (127.5,) * 3, (127.5,) * 3).max(), torch.tensor(0.5 / 127.5))
