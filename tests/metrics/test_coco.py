import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from piip.data.masks import compressed, decoded
from piip.data.sources import DataError
from piip.metrics.coco import _NUMBERS, CocoAP


def pycocotools_numbers(source, results, kind, image_ids=None):
    """The twelve numbers of the original, with its output thrown away."""
    other = {"bbox": "segmentation", "segm": "bbox"}[kind]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(source.annotations))
        found = truth.loadRes([{k: v for k, v in result.items() if k != other} for result in results])
        evaluation = COCOeval(truth, found, kind)
        if image_ids is not None:
            evaluation.params.imgIds = sorted(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.fixture
def random_case(coco_folder, request):
    """Thirty images with objects small to large, crowds among them, and results around them of every quality."""
    rng = np.random.default_rng(request.param)
    results = []
    for _ in range(30):
        width, height = (int(side) for side in rng.integers(120, 260, 2))
        image = coco_folder.add_image(width, height)
        for _ in range(rng.integers(0, 7)):
            w, h = np.minimum(np.exp(rng.uniform(np.log(8), np.log(200), 2)), (width - 1, height - 1)).astype(int)
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            crowd = int(rng.random() < 0.15)
            category = int(rng.choice([2, 7, 9]))
            form = str(rng.choice(["counts", "rle"] if crowd else ["polygon", "counts", "rle"]))
            coco_folder.add_object(image, (x, y, int(w), int(h)), category=category, form=form, iscrowd=crowd)
            results += [_near(rng, image, (x, y, w, h), category, height, width) for _ in range(rng.integers(0, 4))]
    return coco_folder.write(), results


def _near(rng, image_id, box, category, height, width):
    """A result that overlaps the box somewhat, sometimes of another class."""
    x, y, w, h = np.asarray(box) + rng.normal(0, 0.12, 4) * np.asarray([box[2], box[3], box[2], box[3]])
    x, y = np.clip([x, y], 0, [width - 3, height - 3])
    w, h = np.clip([w, h], 2, [width - x, height - y])
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[int(y) : int(np.ceil(y + h)), int(x) : int(np.ceil(x + w))] = 1
    return {
        "image_id": image_id, "category_id": int(category if rng.random() < 0.8 else rng.choice([2, 7, 9])),
        "bbox": [float(v) for v in (x, y, w, h)], "score": float(rng.integers(1, 50) / 50),
        "segmentation": compressed(mask),
    }  # fmt: skip


@pytest.mark.parametrize("random_case", range(6), indirect=True)
@pytest.mark.parametrize(("name", "kind"), [("box", "bbox"), ("mask", "segm")])
def test_all_twelve_numbers_equal_pycocotools(random_case, name, kind):
    source, results = random_case
    metric = CocoAP(source)
    for result in results:
        metric.update([result])

    ours = metric.compute()

    theirs = pycocotools_numbers(source, results, kind)
    assert 0.05 < theirs[0] < 0.95
    for part, expected in zip(_NUMBERS, theirs, strict=True):
        assert ours.get(f"coco/{name}_{part}", -1) == pytest.approx(expected, abs=1e-9), part


@pytest.mark.parametrize("random_case", [0], indirect=True)
def test_some_of_the_images_score_as_pycocotools_scores_them(random_case):
    source, results = random_case
    ids = [10 + 3 * number for number in range(0, 30, 2)]
    metric = CocoAP(source, image_ids=ids)
    metric.update(result for result in results if result["image_id"] in ids)

    assert metric.compute()["coco/box_ap"] == pytest.approx(
        pycocotools_numbers(source, results, "bbox", ids)[0], abs=1e-9
    )


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


def test_perfect_results_score_one_and_areas_without_objects_are_absent(tiny_coco, perfect):
    metric = CocoAP(tiny_coco)
    metric.update(perfect)

    metrics = metric.compute()

    assert metrics["coco/box_ap"] == metrics["coco/mask_ap"] == 1.0
    assert metrics["coco/box_ap_small"] == metrics["coco/box_ap_medium"] == 1.0
    assert "coco/box_ap_large" not in metrics  # no object of 96 x 96 pixels


def test_nothing_found_is_zero(tiny_coco):
    metrics = CocoAP(tiny_coco).compute()
    assert metrics["coco/box_ap"] == metrics["coco/mask_ap"] == 0.0
    assert set(metrics.values()) == {0.0}


def test_nothing_is_printed_and_results_are_left_alone(tiny_coco, perfect, capsys, caplog):
    before = json.dumps(perfect)
    metric = CocoAP(tiny_coco)
    metric.update(perfect)
    metric.compute()

    assert metric.compute()["coco/box_ap"] == 1.0  # asking twice changes nothing
    assert json.dumps(perfect) == before
    assert capsys.readouterr() == ("", "")
    assert caplog.text == ""


def test_results_without_masks_score_boxes_only(tiny_coco, perfect):
    metric = CocoAP(tiny_coco)
    metric.update({k: v for k, v in result.items() if k != "segmentation"} for result in perfect)
    metrics = metric.compute()
    assert metrics["coco/box_ap"] == 1.0
    assert not [name for name in metrics if "mask" in name]


def test_results_of_an_unknown_image_are_refused(tiny_coco, perfect):
    metric = CocoAP(tiny_coco, image_ids=[10, 16])
    with pytest.raises(ValueError, match="first image id 13"):
        metric.update(perfect)


def test_annotations_need_no_area_no_crowd_flag_and_may_have_id_zero(coco_folder):
    image = coco_folder.add_image()
    coco_folder.add_object(image, (8, 8, 20, 16))
    annotation = coco_folder.document["annotations"][0]
    del annotation["area"], annotation["iscrowd"]
    annotation["id"] = 0
    metric = CocoAP(coco_folder.write())
    metric.update([{"image_id": image, "category_id": 2, "bbox": [8, 8, 20, 16], "score": 0.5}])

    assert metric.compute()["coco/box_ap"] == 1.0


def test_damaged_annotations_are_refused(tiny_coco):
    tiny_coco.annotations.write_text(tiny_coco.annotations.read_text()[:-50])
    with pytest.raises(DataError, match="not complete JSON"):
        CocoAP(tiny_coco)
