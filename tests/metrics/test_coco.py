import contextlib
import io
import json
import logging
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from piip.data.formats.coco_json import read_checked
from piip.data.masks import compressed, decoded
from piip.data.samples import ImageInfo
from piip.metrics.coco import NUMBERS, CocoAP
from piip.metrics.coco_truth import Truth

SIDE = 128
"""Pixels of the made-up images: room for objects of all three areas."""


def pycocotools_numbers(document, results, kind, image_ids=None):
    """The twelve numbers of the original, with its output thrown away."""
    other = {"bbox": "segmentation", "segm": "bbox"}[kind]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = pickle.loads(pickle.dumps(document))
        truth.createIndex()
        found = truth.loadRes([{k: v for k, v in result.items() if k != other} for result in results])
        evaluation = COCOeval(truth, found, kind)
        if image_ids is not None:
            evaluation.params.imgIds = sorted(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def scored(truth, results, *, image_ids=None, workers=1, order=0):
    """Our numbers: images dealt out to workers in some order, their states sent and merged in some order."""
    rng = np.random.default_rng(order)
    metrics = [CocoAP(truth) for _ in range(workers)]
    for number, image_id in enumerate(rng.permutation(sorted(image_ids or truth.images)).tolist()):
        mine = [result for result in results if result["image_id"] == image_id]
        metrics[number % workers].update(mine, info_of(truth.images[image_id]))
    states = [pickle.loads(pickle.dumps(metric.state())) for metric in metrics]
    rng.shuffle(states)
    whole = CocoAP(truth)
    whole.merge(states)
    return whole.compute()


def info_of(image):
    return ImageInfo(image["id"], image["file_name"], image["height"], image["width"])


def rectangle(x, y, w, h):
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[int(y) : int(y + h), int(x) : int(x + w)] = 1
    return mask


def form_of(form, x, y, w, h):
    """The rectangle as annotation files have it."""
    if form == "polygon":
        return [[x, y, x + w, y, x + w, y + h, x, y + h]]
    if form == "rle":
        return compressed(rectangle(x, y, w, h))
    edges = np.flatnonzero(np.diff(rectangle(x, y, w, h).ravel(order="F"), append=2))
    return {"size": [SIDE, SIDE], "counts": np.diff(edges + 1, prepend=0).tolist()}


sides = st.sampled_from([2, 5, 16, 31, 32, 33, 64, 95, 96, 97])  # areas below, on and above COCO's two limits
corners = st.integers(0, 24)
objects = st.fixed_dictionaries(
    {
        "box": st.tuples(corners, corners, sides, sides),
        "category": st.sampled_from([2, 7, 9]),
        "crowd": st.sampled_from([0, 0, 0, 1]),
        "form": st.sampled_from(["polygon", "rle", "counts"]),
        "share": st.sampled_from([1.0, 1.0, 0.5]),  # of its box that its annotated area is
    }
)
guesses = st.fixed_dictionaries(
    {
        "object": st.integers(0, 5),  # that it is near to
        "shift": st.tuples(*[st.integers(-5, 5)] * 4),
        "category": st.sampled_from([2, 7, 9, 11]),  # no object is an 11
        "score": st.sampled_from([0.25, 0.5, 0.5, 0.75]),  # ties
        "fill": st.sampled_from([1.0, 0.5]),  # of its box that its mask fills: another area, small or large
    }
)
images = st.tuples(
    st.lists(objects, max_size=5), st.lists(guesses, max_size=6), st.integers(0, 12).map(lambda n: n == 0)
)


def case_of(drawn):
    """Annotations and results of drawn images, ids neither in order nor without gaps; some with more than COCO's 100 results."""
    document = {"images": [], "annotations": [], "categories": [{"id": i, "name": str(i)} for i in (9, 2, 7, 11)]}
    results = []
    for number, (truth, found, crowded) in enumerate(drawn):
        image_id = 1000 - 37 * number if number % 2 else 5 + number
        document["images"].append({"id": image_id, "file_name": f"{image_id}.jpg", "height": SIDE, "width": SIDE})
        for thing in truth:
            box = [float(side) for side in thing["box"]]
            document["annotations"].append(
                {"id": 1 + len(document["annotations"]), "image_id": image_id, "category_id": thing["category"], "bbox": box,
                 "area": box[2] * box[3] * thing["share"], "iscrowd": thing["crowd"],
                 "segmentation": form_of("counts" if thing["crowd"] else thing["form"], *box)}
            )  # fmt: skip
        for guess in found * (25 if crowded else 1):
            near = truth[guess["object"] % len(truth)]["box"] if truth else (9, 9, 30, 30)
            x, y, w, h = (
                max(least, side + by) for side, by, least in zip(near, guess["shift"], (0, 0, 2, 2), strict=True)
            )
            results.append(
                {"image_id": image_id, "category_id": guess["category"], "bbox": [float(v) for v in (x, y, w, h)],
                 "score": guess["score"], "segmentation": compressed(rectangle(x, y, w, max(2, h * guess["fill"])))}
            )  # fmt: skip
    return document, results


@settings(max_examples=60, deadline=None)
@given(st.lists(images, min_size=1, max_size=8), st.sampled_from([1, 2, 3]), st.integers(0, 99))
def test_all_numbers_are_pycocotools_to_the_bit_whoever_saw_which_image(drawn, workers, order):
    document, results = case_of(drawn)

    ours = scored(Truth.of(document), results, workers=workers, order=order)

    for name, kind in (("box", "bbox"), ("mask", "segm")):
        # pycocotools takes no empty list; a certain result of a class without objects changes nothing
        asked = results or [{"image_id": document["images"][0]["id"], "category_id": 11, "bbox": [0, 0, 9, 9], "score": 1.0,
                             "segmentation": compressed(rectangle(0, 0, 9, 9))}]  # fmt: skip
        theirs = pycocotools_numbers(document, asked, kind)
        assert {part: ours.get(f"coco/{name}_{part}", -1) for part in NUMBERS} == dict(
            zip(NUMBERS, theirs, strict=True)
        )


@settings(max_examples=20, deadline=None)
@given(st.lists(images, min_size=2, max_size=8))
def test_boxes_alone_are_pycocotools_too(drawn):
    document, results = case_of(drawn)
    bare = [{k: v for k, v in result.items() if k != "segmentation"} for result in results]

    ours = scored(Truth.of(document), bare, workers=2)

    if bare:
        theirs = dict(zip(NUMBERS, pycocotools_numbers(document, bare, "bbox"), strict=True))
        assert {f"coco/box_{part}": n for part, n in theirs.items() if n > -1} == ours


def test_some_of_the_images_score_as_pycocotools_scores_them(tiny_coco, perfect):
    document = read_checked(tiny_coco.annotations)
    ids = [10, 16]

    ours = scored(Truth.of(document, ids), [result for result in perfect if result["image_id"] in ids])

    assert ours["coco/box_ar1"] == pycocotools_numbers(document, perfect, "bbox", ids)[6]


def test_images_that_nobody_saw_count_as_nothing_found(tiny_coco, perfect):
    document = read_checked(tiny_coco.annotations)
    truth, seen = Truth.of(document), [10, 13]
    found = [result for result in perfect if result["image_id"] in seen]

    ours = scored(truth, found, image_ids=seen)

    assert 0 < ours["coco/box_ap"] < 1
    assert ours["coco/box_ap"] == pycocotools_numbers(document, found, "bbox")[0]
    assert ours["coco/mask_ap"] == pycocotools_numbers(document, found, "segm")[0]


@pytest.fixture
def perfect(tiny_coco):
    """The annotations themselves as results."""
    document = json.loads(tiny_coco.annotations.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    return [
        {
            "image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9,
            "segmentation": compressed(decoded(a["segmentation"], *sizes[a["image_id"]])),
        }
        for a in document["annotations"] if not a["iscrowd"]
    ]  # fmt: skip


@pytest.fixture
def truth(tiny_coco):
    return Truth.of(read_checked(tiny_coco.annotations))


def test_perfect_results_score_one_and_areas_without_objects_are_absent(truth, perfect):
    metrics = scored(truth, perfect)

    # pycocotools' 1.0 is a bit below one where precision is n / (n + eps)
    assert [
        metrics[f"coco/{name}"] for name in ("box_ap", "mask_ap", "box_ap_small", "box_ap_medium")
    ] == pytest.approx([1.0] * 4)
    assert "coco/box_ap_large" not in metrics  # no object of 96 x 96 pixels


def test_nothing_found_is_zero(truth):
    metrics = CocoAP(truth).compute()
    assert metrics["coco/box_ap"] == metrics["coco/mask_ap"] == 0.0
    assert set(metrics.values()) == {0.0}


def test_nothing_is_printed_and_results_are_left_alone(truth, perfect, capfd, caplog):
    before = json.dumps(perfect)
    metric = CocoAP(truth)
    for image_id, image in truth.images.items():
        metric.update([result for result in perfect if result["image_id"] == image_id], info_of(image))
    first = metric.compute()

    assert metric.compute() == first  # asking twice changes nothing
    assert first["coco/box_ap"] == pytest.approx(1.0)
    assert json.dumps(perfect) == before
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


def test_a_state_is_small_and_has_no_masks():
    rng = np.random.default_rng(0)
    noise = compressed((rng.random((SIDE, SIDE)) < 0.5).astype(np.uint8))
    document, _ = case_of([([], [], False)] * 20)
    truth = Truth.of(document)
    metric = CocoAP(truth)
    for image_id, image in truth.images.items():
        metric.update(
            [{"image_id": image_id, "category_id": 2, "bbox": [1, 2, 30, 40], "score": 0.5, "segmentation": noise}]
            * 100,
            info_of(image),
        )

    assert len(noise["counts"]) > 5000  # bytes a mask
    assert len(pickle.dumps(metric.state())) / 2000 < 60  # bytes a detection, boxes and masks together


def test_results_without_masks_score_boxes_only(truth, perfect):
    metrics = scored(truth, [{k: v for k, v in result.items() if k != "segmentation"} for result in perfect], workers=2)
    assert metrics["coco/box_ap"] == pytest.approx(1.0)
    assert not [name for name in metrics if "mask" in name]


def test_annotations_without_masks_score_boxes_only(tiny_coco, perfect):
    document = json.loads(tiny_coco.annotations.read_text())
    for annotation in document["annotations"]:
        del annotation["segmentation"]

    metrics = scored(Truth.of(document), perfect, workers=2)

    assert metrics["coco/box_ap"] == pytest.approx(1.0)
    assert not [name for name in metrics if "mask" in name]


def test_annotations_of_which_some_have_masks_score_boxes_only_and_say_so(tiny_coco, caplog):
    document = json.loads(tiny_coco.annotations.read_text())
    document["annotations"][0]["segmentation"] = None

    with caplog.at_level(logging.WARNING):
        truth = Truth.of(document)

    assert not truth.masks
    assert caplog.messages == ["1 of 5 annotations have no mask: boxes alone are scored"]


class TestRefused:
    def test_results_of_another_image(self, truth, perfect):
        with pytest.raises(ValueError, match="results for image 16, which is not the one that is scored"):
            CocoAP(truth).update(perfect[-1:], info_of(truth.images[10]))

    def test_an_image_that_is_not_scored(self, tiny_coco, truth):
        some = Truth.of(read_checked(tiny_coco.annotations), [10, 16])
        with pytest.raises(ValueError, match="results for image 13"):
            CocoAP(some).update([], info_of(truth.images[13]))

    def test_an_image_that_comes_twice(self, truth):
        metric, other = CocoAP(truth), CocoAP(truth)
        for one in (metric, other):
            one.update([], info_of(truth.images[10]))

        with pytest.raises(ValueError, match="image 10 is scored already"):
            metric.update([], info_of(truth.images[10]))
        with pytest.raises(ValueError, match="2 states to merge, of 2 images, 1 of them different"):
            metric.merge([metric.state(), other.state()])

    def test_masks_in_some_results_only(self, truth, perfect):
        metric, other = CocoAP(truth), CocoAP(truth)
        metric.update(perfect[:1], info_of(truth.images[10]))
        bare = [
            {k: v for k, v in result.items() if k != "segmentation"} for result in perfect if result["image_id"] == 13
        ]

        with pytest.raises(ValueError, match="some results have masks"):
            metric.update(bare, info_of(truth.images[13]))
        other.update(bare, info_of(truth.images[13]))
        with pytest.raises(ValueError, match="some results have masks"):
            CocoAP(truth).merge([metric.state(), other.state()])


def test_annotations_need_no_area_no_crowd_flag_and_may_have_id_zero(coco_folder):
    image = coco_folder.add_image()
    coco_folder.add_object(image, (8, 8, 20, 16))
    annotation = coco_folder.document["annotations"][0]
    del annotation["area"], annotation["iscrowd"]
    annotation["id"] = 0
    truth = Truth.of(read_checked(coco_folder.write().annotations))

    metrics = scored(truth, [{"image_id": image, "category_id": 2, "bbox": [8, 8, 20, 16], "score": 0.5}])

    assert metrics["coco/box_ap"] == pytest.approx(1.0)


def test_each_class_has_its_own_precision_as_pycocotools_counts_it():
    categories = [{"id": number, "name": str(number)} for number in (9, 2, 7)]
    boxes = {2: [[1.0, 1.0, 40.0, 40.0], [60.0, 1.0, 40.0, 40.0]], 7: [[1.0, 60.0, 20.0, 20.0]]}
    annotations = [
        {"id": 0, "image_id": 1, "category_id": number, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for number, of_class in boxes.items()
        for box in of_class
    ]
    annotations = [annotation | {"id": k} for k, annotation in enumerate(annotations, start=1)]
    image = {"id": 1, "file_name": "1.jpg", "height": SIDE, "width": SIDE}
    document = {"images": [image], "annotations": annotations, "categories": categories}
    results = [{"image_id": 1, "category_id": 2, "bbox": [1.0, 1.0, 40.0, 36.0], "score": 0.9}]
    metric = CocoAP(Truth.of(document, [1], masks=False))
    metric.update(results, info_of(image))

    found = metric.per_class()

    assert found.keys() == {2, 7}  # of 9 there is nothing to find
    for number, scores in found.items():
        mine = [{**document, "annotations": [a for a in annotations if a["category_id"] == number]}, results]
        assert scores == {"box_ap": pytest.approx(pycocotools_numbers(*mine, "bbox")[0] if number == 2 else 0.0)}
    assert metric.compute()["coco/box_ap"] == pytest.approx(np.mean([scores["box_ap"] for scores in found.values()]))


@pytest.mark.parametrize("first", [2**53 - 1, 2**62, -(2**63)])
def test_ids_that_no_double_holds_score_as_small_ones_do(first):
    """Neighbours beyond 2**53 are one number to a scorer that keeps doubles: boxes of one image would be found in another."""
    rng = np.random.default_rng(0)

    def numbers(offset):
        images = [{"id": offset + k, "file_name": f"{k}.png", "height": SIDE, "width": SIDE} for k in range(6)]
        categories = [{"id": offset + k, "name": f"class {k}"} for k in range(3)]
        annotations, results = [], []
        for k in range(24):
            x, y, w, h = (int(v) for v in rng.integers(4, 60, 4))
            where = {"image_id": offset + k % 6, "category_id": offset + k % 3}
            mask = compressed(rectangle(x, y, w, h))
            annotations.append(
                {"id": offset + k, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "segmentation": mask} | where
            )
            if k % 4:
                moved = compressed(rectangle(x + k % 5, y, w, h))
                results.append({"bbox": [x + k % 5, y, w, h], "score": 1 / (k + 1), "segmentation": moved} | where)
        truth = Truth.of({"images": images, "annotations": annotations, "categories": categories})
        return scored(truth, results, workers=2)

    small = numbers(1)
    rng = np.random.default_rng(0)
    assert numbers(first) == small
    assert 0.1 < small["coco/box_ap"] < 0.9
