import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piip.contracts import IGNORE
from piip.data.samples import ImageInfo
from piip.metrics.miou import MeanIoU

IDS = [1, 4, 9]


def metric_over(truths):
    infos = [ImageInfo(i, f"{i}.png", *truth.shape) for i, truth in enumerate(truths)]
    return MeanIoU(IDS, infos, lambda info: truths[info.image_id]), infos


def scored(truths, results):
    metric, infos = metric_over(truths)
    for info, result in zip(infos, results, strict=True):
        metric.update(np.array(IDS, dtype=np.uint8)[result], info)
    return metric


def by_hand(truths, results):
    """Pixel by pixel, with sets: no array arithmetic shared with the metric."""
    pixels = [
        (t, r)
        for truth, result in zip(truths, results, strict=True)
        for t, r in zip(truth.ravel().tolist(), result.ravel().tolist(), strict=True)
        if t != IGNORE
    ]
    ious, accuracies = [], []
    for label in range(len(IDS)):
        there = {i for i, (t, _) in enumerate(pixels) if t == label}
        found = {i for i, (_, r) in enumerate(pixels) if r == label}
        ious += [len(there & found) / len(there | found)] if there | found else []
        accuracies += [len(there & found) / len(there)] if there else []
    if not pixels:
        return {}
    right = sum(t == r for t, r in pixels) / len(pixels)
    return {"ade20k/miou": sum(ious) / len(ious), "ade20k/acc": right, "ade20k/macc": sum(accuracies) / len(accuracies)}


@st.composite
def cases(draw):
    """One to four images; not every class everywhere, so that some are absent, missed or imagined."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    there, found = (draw(st.lists(st.sampled_from([0, 1, 2, IGNORE][:n]), min_size=1, max_size=4)) for n in (4, 3))
    sizes = [(int(rng.integers(1, 6)), int(rng.integers(1, 6))) for _ in range(draw(st.integers(1, 4)))]
    return [rng.choice(there, size).astype(np.uint16) for size in sizes], [rng.choice(found, size) for size in sizes]


@given(cases())
@settings(max_examples=150, deadline=None)
def test_the_numbers_are_those_of_a_count_by_hand(case):
    truths, results = case

    assert scored(truths, results).compute() == pytest.approx(by_hand(truths, results), abs=1e-12)


@given(cases(), st.permutations(range(3)), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_any_number_of_workers_merged_in_any_order_gives_the_same_bits(case, order, shuffled):
    truths, results = case
    workers = [metric_over(truths)[0] for _ in range(3)]
    _, infos = metric_over(truths)
    images = list(zip(infos, results, strict=True))
    shuffled.shuffle(images)
    for number, (info, result) in enumerate(images):
        workers[number % 3].update(np.array(IDS)[result], info)

    merged, _ = metric_over(truths)
    merged.merge([workers[rank].state() for rank in order])

    assert merged.compute() == scored(truths, results).compute()
    assert merged.compute() == merged.compute()


def test_an_image_that_never_came_counts_as_nothing_found():
    truths = [np.array([[0, 0]]), np.array([[0, 1], [1, 1]])]
    metric, infos = metric_over(truths)

    metric.update(np.array([[1, 1]]), infos[0])

    # class 0: 2 of 3 pixels found; class 1: none of 3
    assert metric.compute() == pytest.approx({"ade20k/miou": 1 / 3, "ade20k/acc": 2 / 6, "ade20k/macc": 1 / 3})


def test_absent_classes_are_left_out_and_imagined_ones_count_as_zero():
    metric = scored([np.array([[0, 0, 0, 0]])], [np.array([[0, 0, 0, 1]])])

    # mmsegmentation: class 0 3/4, class 1 0/1, class 2 nan; accuracy only where the class is there
    first, second, third = metric.ids
    assert metric.per_class() == {first: {"iou": 0.75, "acc": 0.75}, second: {"iou": 0.0}}
    assert third not in metric.per_class()
    assert metric.compute() == pytest.approx({"ade20k/miou": 0.375, "ade20k/acc": 0.75, "ade20k/macc": 0.75})


def test_a_result_of_another_size_is_refused():
    metric, infos = metric_over([np.zeros((2, 3), dtype=np.uint16)])

    with pytest.raises(ValueError, match=r"0.png: a result of \(3, 2\) for a truth of \(2, 3\) pixels"):
        metric.update(np.ones((3, 2), dtype=np.uint8), infos[0])
