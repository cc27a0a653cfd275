from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from piip.contracts import IGNORE
from piip.data.transforms import segmentation as transforms


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((480, 640), (512,), (512, 683)),  # evaluation, 683 = 512 * 640 / 480
        ((100, 900), (512,), (512, 4608)),  # the long side has no limit there
        ((480, 640), (256, 1024), (256, 341)),
        ((100, 900), (512, 2048), (228, 2048)),  # training: the recipe's 2048 x 512
    ],
)
def test_the_short_side_decides_unless_the_long_one_is_limited(size, limits, expected):
    assert transforms.resized_size(*size, *limits) == expected


@pytest.mark.parametrize("size", [(5, 7), (9, 31), (60, 44)])
def test_resized_maps_have_no_number_that_was_not_there(size):
    labels = torch.tensor([[0, 7, IGNORE], [12, 3, 0]])

    resized = transforms.resize_labels(labels, size)

    assert resized.shape == size
    assert set(resized.unique().tolist()) == {0, 3, 7, 12, IGNORE}


def test_a_map_made_twice_as_large_stays_in_its_place():
    labels = torch.arange(6).view(2, 3)

    assert torch.equal(transforms.resize_labels(labels, (4, 6)), labels.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_a_crop_with_one_class_is_drawn_anew():
    # class 1 in a corner of 12 x 12 in 64 x 64: most squares of 16 do not touch it
    labels = torch.zeros(64, 64, dtype=torch.int64)
    labels[:12, :12] = 1
    image = labels.expand(3, 64, 64)

    def both(share):
        crops = [
            transforms.random_crop(image, labels, 16, np.random.default_rng(seed), class_share=share)
            for seed in range(200)
        ]
        assert all(torch.equal(image[0], label) for image, label in crops)
        return np.mean([len(label.unique()) == 2 for _, label in crops])

    # by chance (12 / 49)^2 = 6 %; of ten tries one shows both in 46 %, one with less than 3/4 of the other in fewer
    assert 0.02 < both(1.0) / 10 < 0.07
    assert 0.05 < both(0.75) < both(1.0)


def test_an_unlabelled_part_does_not_count_as_a_class():
    labels = torch.full((32, 32), IGNORE)
    labels[:, 20:] = 2
    labels[:, 24:] = 3

    shares = [
        transforms.random_crop(labels.expand(3, 32, 32), labels, 16, np.random.default_rng(seed), class_share=0.75)[1]
        for seed in range(50)
    ]

    # 4 of the 12 labelled columns are of class 2: with columns from 12 on, both are in the crop
    assert np.mean([{2, 3} <= set(label.unique().tolist()) for label in shares]) > 0.9


def test_colours_vary_with_the_generator_and_not_otherwise():
    image = torch.from_numpy(np.random.default_rng(0).integers(40, 200, (3, 20, 20), dtype=np.uint8))

    many = [transforms.photometric(image, np.random.default_rng(seed)) for seed in range(200)]

    assert torch.equal(many[3], transforms.photometric(image, np.random.default_rng(3)))
    assert {m.dtype for m in many} == {torch.uint8}
    # each of the four changes is left out one time in two: nothing at all happens one time in 16
    assert 4 < sum(torch.equal(m, image) for m in many) < 25
    assert np.mean([float(m.float().mean()) for m in many]) == pytest.approx(float(image.float().mean()), abs=12)


def test_padding_is_the_mean_colour_and_no_label():
    image, labels = transforms.pad_square(torch.ones(3, 2, 3), torch.ones(2, 3, dtype=torch.int64), 4)

    assert image.shape == (3, 4, 4)
    assert image.sum() == 3 * 6
    assert labels.tolist() == [[1, 1, 1, IGNORE]] * 2 + [[IGNORE] * 4] * 2


def test_a_smaller_map_has_the_pixels_at_the_new_ones_centres():
    assert transforms.resize_labels(torch.arange(6).view(1, 6), (1, 2)).tolist() == [[1, 4]]
    assert transforms.resized_size(3, 4000, 100, 200) == (1, 200)  # a side is never nothing


def test_a_crop_may_lie_anywhere_and_is_all_of_a_smaller_image():
    labels = torch.arange(5 * 6).view(5, 6)
    image = labels.expand(3, 5, 6)

    def corners(side):
        crops = [
            transforms.random_crop(image, labels, side, np.random.default_rng(s), class_share=1.0)[1] for s in range(99)
        ]
        assert {crop.shape for crop in crops} == {(min(side, 5), min(side, 6))}
        return {int(crop[0, 0]) for crop in crops}

    assert corners(4) == {0, 1, 2, 6, 7, 8}  # rows 0 and 1, columns 0 to 2
    assert corners(5) == {0, 1}
    assert corners(9) == {0}


def test_a_class_may_cover_less_than_its_share_and_ten_crops_are_tried():
    labels = torch.zeros(4, 4, dtype=torch.int64)
    labels[0] = 1  # three quarters are of class 0

    def tries(share):
        draws = []
        rng = SimpleNamespace(integers=lambda low, high: draws.append(high) or low)
        transforms.random_crop(labels.expand(3, 4, 4), labels, 4, rng, class_share=share)  # type: ignore[arg-type]
        return len(draws) // 2

    assert tries(0.76) == 1
    assert tries(0.75) == 10  # just as much is too much


class Said:
    """A generator that says which of the four changes happen, and how much."""

    def __init__(self, *changes, contrast_first=True):
        self.changes, self.contrast_first, self.ranges = changes, contrast_first, []

    def random(self, size=None):
        if size is None:
            return 0.0 if self.contrast_first else 0.9
        return np.array(
            [0.0 if change in self.changes else 0.9 for change in ("brightness", "contrast", "saturation", "hue")]
        )

    def uniform(self, low, high):
        self.ranges.append((low, high))
        return low + 0.8 * (high - low)


def test_each_change_of_colours_is_as_large_as_the_recipe_says():
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 20, 20), dtype=np.uint8))
    lighter = (image.float() + 19.2).clamp(0, 255).to(torch.uint8)  # -32 + 0.8 * 64
    starker = (image.float() * 1.3).clamp(0, 255).to(torch.uint8)  # 0.5 + 0.8 * 1
    expected = {
        "brightness": lighter, "contrast": starker, "saturation": F.adjust_saturation(image, 1.3),
        "hue": F.adjust_hue(image, 0.06),  # -0.1 + 0.8 * 0.2
    }  # fmt: skip

    for change, changed in expected.items():
        for contrast_first in (True, False):
            torch.testing.assert_close(
                transforms.photometric(image, Said(change, contrast_first=contrast_first)), changed
            )
    rng = Said()
    assert torch.equal(transforms.photometric(image, rng), image)
    assert sorted(rng.ranges) == [(-32, 32), (-0.1, 0.1), (0.5, 1.5), (0.5, 1.5)]


def test_contrast_comes_before_saturation_or_after_it():
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 20, 20), dtype=np.uint8))

    before, after = (
        transforms.photometric(image, Said("contrast", "saturation", contrast_first=first)) for first in (True, False)
    )

    contrast = lambda pixels: (pixels.float() * 1.3).clamp(0, 255).to(torch.uint8)  # noqa: E731
    assert torch.equal(before, F.adjust_saturation(contrast(image), 1.3))
    assert torch.equal(after, contrast(F.adjust_saturation(image, 1.3)))
    assert not torch.equal(before, after)
