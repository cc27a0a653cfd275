import contextlib
import io
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from piip.data.samples import ImageInfo
from piip.metrics.coco import KEYPOINT_NUMBERS, NUMBERS, CocoAP
from piip.metrics.coco_truth import OTHERS, PERSON, Truth, sigmas_of


def pycocotools_numbers(document, results, kind, sigmas):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = pickle.loads(pickle.dumps(document))
        truth.createIndex()
        kept = {"bbox": "bbox", "keypoints": "keypoints"}[kind]
        found = truth.loadRes([{k: r[k] for k in ("image_id", "category_id", "score", kept)} for r in results])
        evaluation = COCOeval(truth, found, kind)
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def scored(truth, results, workers=1, order=0):
    """Our numbers: images dealt out unevenly, states sent and merged in some order."""
    rng = np.random.default_rng(order)
    metrics = [CocoAP(truth) for _ in range(workers)]
    for image_id in rng.permutation(sorted(truth.images)).tolist():
        mine = [result for result in results if result["image_id"] == image_id]
        metrics[int(rng.integers(workers))].update(mine, ImageInfo(image_id, "a.jpg", 200, 200))
    states = [pickle.loads(pickle.dumps(metric.state())) for metric in metrics]
    rng.shuffle(states)
    whole = CocoAP(truth)
    whole.merge(states)
    return whole.compute()


things = st.fixed_dictionaries(
    {
        "box": st.tuples(st.integers(0, 60), st.integers(0, 60), *[st.sampled_from([8, 32, 60, 96, 120])] * 2),
        "seen": st.tuples(*[st.sampled_from([0, 1, 2, 2])] * 17),
        "seed": st.integers(0, 9),
        "crowd": st.sampled_from([0, 0, 0, 1]),
        "share": st.sampled_from([1.0, 0.5, 0.5, None]),  # of its box that its area is; none: -1
    }
)
guesses = st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, 4.0, 12.0]), st.sampled_from([0.25, 0.5, 0.5, 0.75]))
images = st.tuples(st.lists(things, max_size=4), st.lists(guesses, max_size=5), st.sampled_from([1, 1, 1, 8]))


def points_in(box, seed, count):
    x, y, w, h = box
    return np.random.default_rng(seed).random((count, 2)) * (w, h) + (x, y)


def case_of(drawn, count):
    document = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "person"}]}
    results = []
    for number, (objects, found, times) in enumerate(drawn):
        image_id = 50 - 3 * number
        document["images"].append({"id": image_id, "height": 200, "width": 200})
        for thing in objects:
            seen = np.array(thing["seen"][:count])[:, None]
            points = np.hstack([points_in(thing["box"], thing["seed"], count) * (seen > 0), seen])
            area = -1.0 if thing["share"] is None else thing["box"][2] * thing["box"][3] * thing["share"]
            document["annotations"].append(
                {"id": 1 + len(document["annotations"]), "image_id": image_id, "category_id": 3, "bbox": [float(v) for v in thing["box"]],
                 "area": area, "iscrowd": thing["crowd"], "keypoints": points.ravel().tolist(), "num_keypoints": int((seen > 0).sum())}
            )  # fmt: skip
        for near, noise, score in found * times:  # some with more than the 20 results that count
            thing = objects[near % len(objects)] if objects else {"box": (9, 9, 30, 30), "seed": 0}
            points = points_in(thing["box"], thing["seed"], count)
            points = points + np.random.default_rng(len(results)).normal(0, 1, points.shape) * noise
            flat = np.hstack([points, np.ones((count, 1))]).ravel().tolist()
            box = [float(v) for v in thing["box"]]
            results.append({"image_id": image_id, "category_id": 3, "bbox": box, "score": score, "keypoints": flat})
    return document, results


@settings(max_examples=40, deadline=None)
@given(st.lists(images, min_size=1, max_size=6), st.sampled_from([17, 17, 4]), st.sampled_from([1, 2, 3]), st.integers(0, 99))  # fmt: skip
def test_all_numbers_are_pycocotools_to_the_bit_whoever_saw_which_image(drawn, count, workers, order):
    document, results = case_of(drawn, count)

    ours = scored(Truth.of(document, masks=False, keypoints=True), results, workers, order)

    if not (results and document["annotations"]):
        # pycocotools takes no empty list; without objects there is nothing that a number could be of
        assert set(ours.values()) <= {0.0}
        return
    sigmas = PERSON if count == 17 else (OTHERS,) * 4
    for name, kind, parts in (("keypoint", "keypoints", KEYPOINT_NUMBERS), ("box", "bbox", NUMBERS)):
        theirs = pycocotools_numbers(document, results, kind, sigmas)
        assert {part: ours.get(f"coco/{name}_{part}", -1) for part in parts} == dict(zip(parts, theirs, strict=True))


def test_results_without_keypoints_are_scored_as_boxes():
    thing = {"box": (9, 9, 60, 60), "seen": (2,) * 17, "seed": 1, "crowd": 0, "share": 1.0}
    document, results = case_of([([thing], [(0, 0.0, 0.5)], 1)], 17)
    bare = [{k: v for k, v in result.items() if k != "keypoints"} for result in results]

    assert scored(Truth.of(document, masks=False, keypoints=True), results)["coco/keypoint_ap"] == pytest.approx(1.0)
    found = scored(Truth.of(document, masks=False, keypoints=True), bare, workers=2)
    assert found["coco/box_ap"] == pytest.approx(1.0)
    assert not [name for name in found if "keypoint" in name]


def test_how_exact_keypoints_are_is_cocos_or_what_the_file_says():
    def document(*counts, **category):
        return {"annotations": [{"keypoints": [1, 1, 2] * count} for count in counts], "categories": [{"id": 1, **category}]}  # fmt: skip

    assert sigmas_of(document(17, 17)) == PERSON
    assert sigmas_of(document(4)) == (OTHERS,) * 4
    assert sigmas_of(document(2, sigmas=[0.1, 0.2])) == (0.1, 0.2)
    assert sigmas_of({"annotations": [{}], "categories": [{"id": 1}]}) == ()
    for odd in (document(4, 17), document(4, sigmas=[0.1])):
        with pytest.raises(ValueError, match="keypoints are scored of objects that all have as many"):
            sigmas_of(odd)
