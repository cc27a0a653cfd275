"""VOC, Open Images and CrowdHuman against tests/support/published_scores.py."""

import pickle

import numpy as np
import published_scores
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piip.data.samples import ImageInfo
from piip.metrics.crowdhuman import CrowdHumanScore
from piip.metrics.openimages import OpenImagesAP, lines_of
from piip.metrics.voc import VocAP

METRICS = [VocAP, OpenImagesAP, CrowdHumanScore]
PARENTS = {5: [], 2: [5], 9: [2], 4: [5]}
CATEGORIES = [{"id": number, "name": str(number), "parents": parents} for number, parents in PARENTS.items()]


def scored(metric, document, results, workers=1, order=0):
    """Our metric: images dealt out unevenly, states sent and merged in some order."""
    rng = np.random.default_rng(order)
    metrics = [metric(document) for _ in range(workers)]
    for image_id in rng.permutation([image["id"] for image in document["images"]]).tolist():
        mine = [result for result in results if result["image_id"] == image_id]
        metrics[int(rng.integers(workers))].update(mine, ImageInfo(image_id, "a.jpg", 100, 100))
    states = [pickle.loads(pickle.dumps(one.state())) for one in metrics]
    rng.shuffle(states)
    whole = metric(document)
    whole.merge(states)
    return whole


classes = st.sampled_from([2, 9, 9, 4, 5])
flags = st.sampled_from([0, 0, 0, 1])
objects = st.tuples(*[st.integers(0, 60)] * 2, *[st.sampled_from([3, 20, 40, 41, 60])] * 2, classes, flags)
scores = st.sampled_from([0.05, 0.2, 0.2, 0.4, 0.7, 0.95])
guesses = st.tuples(st.integers(0, 4), st.tuples(*[st.integers(-9, 9)] * 4), classes, scores)
labels = st.lists(classes, unique=True, max_size=2)
images = st.tuples(st.lists(objects, max_size=5), st.lists(guesses, max_size=7), labels, labels)
drawn_images = st.lists(images, min_size=1, max_size=6)


def case_of(drawn):
    """Annotations and results; with fractions of their own, so that no two overlaps are equal by chance."""
    rng = np.random.default_rng(len(drawn))
    document = {"images": [], "annotations": [], "categories": CATEGORIES}
    results = []
    for number, (things, found, positive, negative) in enumerate(drawn):
        image_id = 40 - 3 * number
        document["images"].append(
            {"id": image_id, "width": 100, "height": 90, "pos_category_ids": positive, "neg_category_ids": negative}
        )
        for *box, category, flag in things:
            box = (np.array(box) + rng.random(4)).tolist()
            document["annotations"].append(
                {"image_id": image_id, "category_id": category, "bbox": box, "difficult": flag, "is_group_of": flag, "iscrowd": flag}
            )  # fmt: skip
        for near, shift, category, score in found:
            box = things[near % len(things)][:4] if things else (9, 9, 30, 30)
            box = (np.maximum(np.add(box, shift), (0, 0, 2, 2)) + rng.random(4)).tolist()
            results.append({"image_id": image_id, "category_id": category, "bbox": box, "score": score})
    return document, results


@settings(max_examples=40, deadline=None)
@given(drawn_images, st.sampled_from([1, 2, 3]), st.integers(0, 99))
def test_voc_is_the_kits(drawn, workers, order):
    document, results = case_of(drawn)

    metric = scored(VocAP, document, results, workers, order)

    theirs = published_scores.voc(document, results)
    assert {number: tuple(found.values()) for number, found in metric.per_class().items()} == {
        number: pytest.approx(both) for number, both in theirs.items()
    }
    if theirs:
        means = np.mean(list(theirs.values()), axis=0)
        assert list(metric.compute().values()) == pytest.approx(means)
    assert metric.compute() == scored(VocAP, document, results).compute()  # to the bit


@settings(max_examples=40, deadline=None)
@given(drawn_images, st.sampled_from([1, 2, 3]), st.integers(0, 99))
def test_open_images_is_the_challenges(drawn, workers, order):
    document, results = case_of(drawn)

    metric = scored(OpenImagesAP, document, results, workers, order)

    theirs = published_scores.open_images(document, results)
    assert {number: found["box_ap50"] for number, found in metric.per_class().items()} == pytest.approx(theirs)
    if theirs:
        assert metric.compute() == {"openimages/box_ap50": pytest.approx(np.mean(list(theirs.values())))}
    assert metric.compute() == scored(OpenImagesAP, document, results).compute()


@settings(max_examples=40, deadline=None)
@given(drawn_images, st.sampled_from([1, 2, 3]), st.integers(0, 99))
def test_crowdhuman_is_the_authors(drawn, workers, order):
    document, results = case_of(drawn)

    ours = scored(CrowdHumanScore, document, results, workers, order).compute()

    if not [a for a in document["annotations"] if not a["iscrowd"]]:
        assert ours == {}
        return
    ap, miss_rate, jaccard = published_scores.crowdhuman(document, results)
    assert ours == pytest.approx({"crowdhuman/box_ap50": ap, "crowdhuman/mr": miss_rate, "crowdhuman/ji": jaccard}, abs=1e-9)  # fmt: skip
    assert ours == scored(CrowdHumanScore, document, results).compute()


ONE = {
    "images": [{"id": 1, "width": 100, "height": 100}, {"id": 2, "width": 100, "height": 100}],
    "annotations": [{"image_id": 1, "category_id": 9, "bbox": [10.0, 10.0, 20.0, 20.0]}],
    "categories": CATEGORIES,
}


def result(box, score=0.9, category=9, image=1):
    return {"image_id": image, "category_id": category, "bbox": list(map(float, box)), "score": score}


def test_vocs_last_pixel_belongs_to_a_box():
    # 20 x 20 pixels from 11 to 30 against 14 from 17 to 30: 196 of 400 pixels; one pixel more, 15 x 15, is 225
    assert scored(VocAP, ONE, [result((16, 16, 14, 14))]).compute()["voc/box_ap50"] == 0.0
    assert scored(VocAP, ONE, [result((15, 15, 15, 15))]).compute()["voc/box_ap50"] == 1.0
    # half of it exactly is enough
    assert scored(VocAP, ONE, [result((10, 10, 10, 20))]).compute()["voc/box_ap50"] == 1.0


def test_a_dog_is_an_animal_but_a_result_stands_for_its_class_alone_unless_asked():
    found = [result((10, 10, 20, 20))]

    assert scored(OpenImagesAP, ONE, found).per_class() == {9: {"box_ap50": 1.0}, 2: {"box_ap50": 0.0}, 5: {"box_ap50": 0.0}}  # fmt: skip
    asked = scored(lambda document: OpenImagesAP(document, expand_results=True), ONE, found)
    assert asked.compute() == {"openimages/box_ap50": 1.0}


def test_a_hierarchy_in_circles_or_with_gaps_is_refused():
    with pytest.raises(ValueError, match="hierarchy of classes: 1, a parent of 2, is above itself"):
        lines_of([{"id": 1, "parents": [2]}, {"id": 2, "parents": [1]}])
    with pytest.raises(ValueError, match="hierarchy of classes: 7, a parent of 1, is no category"):
        lines_of([{"id": 1, "parents": [7]}])


@pytest.mark.parametrize("metric", METRICS)
class TestEachOfThem:
    def test_images_that_nobody_saw_and_boxes_of_no_area_find_nothing(self, metric):
        flat = [result((10, 10, 0, 0))]
        nothing, seen = metric(ONE).compute(), scored(metric, ONE, flat).compute()

        assert {n for name, n in nothing.items() if name != "crowdhuman/mr"} == {0.0}
        assert nothing.get("crowdhuman/mr", 1.0) == 1.0
        assert seen.keys() == nothing.keys()
        assert {n for name, n in seen.items() if name != "crowdhuman/mr"} == {0.0}

    def test_some_of_the_images_and_none_with_objects(self, metric, caplog):
        assert metric(ONE, [2]).compute() == {}
        assert "nothing to score: no" in caplog.text

    def test_other_images_and_the_same_twice_are_refused(self, metric):
        first, second = metric(ONE), metric(ONE)
        for one in (first, second):
            one.update([], ImageInfo(1, "a.jpg", 100, 100))

        with pytest.raises(ValueError, match="image 1 is scored already"):
            first.update([], ImageInfo(1, "a.jpg", 100, 100))
        with pytest.raises(ValueError, match="results for image 1, which is not the one that is scored"):
            first.update([result((1, 1, 2, 2))], ImageInfo(2, "b.jpg", 100, 100))
        with pytest.raises(ValueError, match="results for image 3"):
            first.update([], ImageInfo(3, "c.jpg", 100, 100))
        with pytest.raises(ValueError, match="2 states to merge, of 2 images, 1 of them different"):
            first.merge([first.state(), second.state()])
