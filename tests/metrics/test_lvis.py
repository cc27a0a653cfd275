import logging
import pickle
import sys
import types
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from piip.data.masks import compressed
from piip.data.samples import ImageInfo
from piip.metrics.coco_truth import Truth
from piip.metrics.lvis import LVIS_NUMBERS, LvisAP

SIDE = 128
CATEGORIES = [{"id": id_, "name": str(id_), "frequency": how} for id_, how in ((9, "r"), (2, "c"), (7, "f"), (11, "r"))]


@pytest.fixture(scope="module")
def lvis():
    """The package of LVIS's authors. It draws with OpenCV, which nobody asks it for, and knows a name that NumPy has given up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cv2", types.ModuleType("cv2"))
        patch.setattr(np, "float", float, raising=False)
        import lvis as package

        logging.getLogger("lvis").setLevel(logging.ERROR)
        yield package


def lvis_numbers(lvis, document, results, kind):
    """The thirteen numbers of the original: bbox or segm."""
    truth = lvis.LVIS.__new__(lvis.LVIS)
    truth.logger, truth.dataset = logging.getLogger("lvis"), deepcopy(document)
    truth._create_index()
    other = {"bbox": "segmentation", "segm": "bbox"}[kind]
    found = [{k: v for k, v in result.items() if k != other} for result in results]
    evaluation = lvis.LVISEval(truth, lvis.LVISResults(truth, found), kind)
    evaluation.run()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300", "ARs@300", "ARm@300", "ARl@300")
    return dict(zip(LVIS_NUMBERS, (evaluation.results[name] for name in names), strict=True))


def scored(truth, results, workers=1, order=0):
    """Our numbers: images dealt out unevenly, states sent and merged in some order."""
    rng = np.random.default_rng(order)
    metrics = [LvisAP(truth) for _ in range(workers)]
    for image_id in rng.permutation(sorted(truth.images)).tolist():
        mine = [result for result in results if result["image_id"] == image_id]
        metrics[int(rng.integers(workers))].update(mine, ImageInfo(image_id, "a.jpg", SIDE, SIDE))
    states = [pickle.loads(pickle.dumps(metric.state())) for metric in metrics]
    rng.shuffle(states)
    whole = LvisAP(truth)
    whole.merge(states)
    return whole


def rectangle(x, y, w, h):
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[int(y) : int(y + h), int(x) : int(x + w)] = 1
    return compressed(mask)


corners, sides = st.integers(0, 24), st.sampled_from([2, 16, 31, 32, 33, 64, 96, 97])
classes = st.sampled_from([2, 7, 9])
objects = st.tuples(corners, corners, sides, sides, classes, st.sampled_from([1.0, 1.0, 0.5, None]))
guesses = st.tuples(
    st.integers(0, 4),
    st.tuples(*[st.integers(-4, 4)] * 4),
    st.sampled_from([2, 7, 9, 11]),
    st.sampled_from([0.25, 0.5, 0.75]),
)
said = st.lists(st.sampled_from([2, 7, 9, 11]), unique=True, max_size=2)
images = st.tuples(st.lists(objects, max_size=5), st.lists(guesses, max_size=6), said, said, st.just(False))


def case_of(drawn):
    document = {"images": [], "annotations": [], "categories": CATEGORIES}
    results = []
    for number, (things, found, absent, partly, crowded) in enumerate(drawn):
        image_id = 100 - 7 * number
        there = {thing[4] for thing in things}
        document["images"].append(
            {"id": image_id, "height": SIDE, "width": SIDE, "neg_category_ids": [c for c in absent if c not in there],
             "not_exhaustive_category_ids": partly}
        )  # fmt: skip
        for x, y, w, h, category, share in things:
            document["annotations"].append(
                {"id": 1 + len(document["annotations"]), "image_id": image_id, "category_id": category,
                 "bbox": [float(v) for v in (x, y, w, h)],
                 "area": -1.0 if share is None else w * h * share, "segmentation": rectangle(x, y, w, h)}
            )  # fmt: skip
        for near, shift, category, score in found * (150 if crowded else 1):  # more than the 300 that count
            box = things[near % len(things)][:4] if things else (9, 9, 30, 30)
            x, y, w, h = (max(low, s + by) for s, by, low in zip(box, shift, (0, 0, 2, 2), strict=True))
            results.append(
                {"image_id": image_id, "category_id": category, "bbox": [float(v) for v in (x, y, w, h)], "score": score,
                 "segmentation": rectangle(x, y, w, h)}
            )  # fmt: skip
    return document, results


@settings(max_examples=25, deadline=None)
@given(st.lists(images, min_size=1, max_size=5), st.sampled_from([1, 2, 3]), st.integers(0, 99))
@example(
    [
        (
            [(0, 0, 40, 40, 9, 1.0)],
            [(0, (1, 0, 0, 0), 9, 0.5), (0, (0, 0, 0, 0), 2, 0.5), (0, (0, 0, 0, 0), 9, 0.25)],
            [2],
            [],
            True,
        )
    ],
    1,
    0,
)
def test_all_numbers_are_those_of_the_authors_package_whoever_saw_which_image(lvis, drawn, workers, order):
    document, results = case_of(drawn)

    ours = scored(Truth.of(document), results, workers, order).compute()

    # the package takes no empty list; a result of a class that the image says nothing of changes nothing
    lone = {
        "image_id": 100,
        "category_id": 11,
        "bbox": [0, 0, 9, 9],
        "score": 1.0,
        "segmentation": rectangle(0, 0, 9, 9),
    }
    asked = results or [lone]
    if not results:
        document["images"][0]["neg_category_ids"] = []
    for name, kind in (("box", "bbox"), ("mask", "segm")):
        theirs = lvis_numbers(lvis, document, asked, kind)
        assert {part: ours.get(f"lvis/{name}_{part}", -1) for part in LVIS_NUMBERS} == pytest.approx(theirs, abs=1e-12)


def test_classes_have_their_own_precision_and_rare_ones_a_mean_of_theirs():
    document, results = case_of(
        [([(0, 0, 40, 40, 9, 1.0), (60, 0, 40, 40, 2, 1.0)], [(0, (0, 0, 0, 0), 9, 0.5)], [], [], False)]
    )
    metric = scored(Truth.of(document), results)

    assert metric.per_class()[9] == pytest.approx({"box_ap": 1.0, "mask_ap": 1.0})
    assert metric.per_class()[2] == {"box_ap": 0.0, "mask_ap": 0.0}
    assert metric.compute()["lvis/box_apr"] == pytest.approx(1.0)
    assert metric.compute()["lvis/box_ap"] == pytest.approx(0.5)
    assert "lvis/box_apf" not in metric.compute()
