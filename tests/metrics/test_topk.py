import itertools

import pytest

from piip.data.samples import ImageInfo
from piip.metrics.topk import TopK

CLASSES = {1: 0, 2: 3, 3: 7}
"""Image -> its class, of ten."""
SAID = {1: [0, 1, 2, 3, 4], 2: [9, 8, 3, 1, 0], 3: [0, 1, 2, 3, 4]}
"""Image -> the five surest: right at once, right among five, wrong."""


def metric(*images: int, num_classes: int = 10) -> TopK:
    counted = TopK(CLASSES, num_classes)
    for image in images:
        info = ImageInfo(image, f"{image}.jpg", 8, 8)
        counted.update([{"category_id": category} for category in SAID[image]], info)
    return counted


def test_top1_counts_the_surest_and_top5_the_five_surest():
    assert metric(1, 2, 3).compute() == pytest.approx({"imagenet/top1": 1 / 3, "imagenet/top5": 2 / 3})


def test_images_that_never_came_count_as_wrong():
    assert metric(1).compute()["imagenet/top1"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("order", itertools.permutations([(1,), (2, 3), ()]))
def test_workers_in_any_order_give_the_same_numbers(order):
    merged = metric()
    merged.merge([metric(*images).state() for images in order])

    assert merged.compute() == metric(1, 2, 3).compute()


@pytest.mark.parametrize(("num_classes", "there"), [(5, False), (6, True)])
def test_top5_of_five_classes_says_nothing_and_is_left_out(num_classes, there):
    assert ("imagenet/top5" in metric(1, num_classes=num_classes).compute()) == there


def test_what_is_not_of_the_split_or_comes_twice_is_refused():
    with pytest.raises(ValueError, match=r"an image that is not scored, id 9 \(x\.jpg\)"):
        metric().update([], ImageInfo(9, "x.jpg", 8, 8))
    with pytest.raises(ValueError, match="4 results for 3 images: an image came twice"):
        metric(1, 1, 2, 3).compute()


def test_each_class_has_its_own_share():
    merged = metric()
    merged.merge([metric(1).state(), metric(2, 3).state()])

    assert merged.per_class() == {
        number: {"top1": share, "images": 1.0} for number, share in {0: 1, 3: 0, 7: 0}.items()
    }
