import json

import pytest
import torch
from pico_trials import pico_spec

from piip.data.formats.coco import CocoDataset
from piip.data.masks import compressed, decoded
from piip.models import build_model
from piip.training.evaluate import evaluate, predict, score


@pytest.fixture
def model():
    torch.manual_seed(0)
    spec = pico_spec(model__head__score_threshold=0.0)  # untrained, it finds something all the same
    return build_model(spec.model, pretrained=False)


@pytest.fixture
def data(sources):
    return CocoDataset(sources["val"], pico_spec().data, 128, training=False)


def test_the_number_of_workers_never_changes_a_prediction(model, data):
    alone = predict(model, data)
    shared = predict(model, data, rank=0, world_size=2) + predict(model, data, rank=1, world_size=2)

    def key(result):
        return result["image_id"], -result["score"], result["bbox"]

    assert len(alone) > 0
    assert sorted(shared, key=key) == sorted(alone, key=key)


def test_predictions_are_in_the_order_of_the_data_set(model, data):
    ids = [info.image_id for info in data.infos]
    _, results = evaluate(model, data)

    assert list(dict.fromkeys(result["image_id"] for result in results)) == ids
    assert [ids.index(result["image_id"]) for result in results] == sorted(ids.index(r["image_id"]) for r in results)


def test_a_model_goes_back_to_the_mode_it_was_in(model, data):
    for training in (True, False):
        model.train(training)
        predict(model, data)
        assert model.training is training


def test_progress_counts_images(model, data):
    seen = []
    predict(model, data, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_evaluation_draws_no_random_numbers(model, data):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    predict(model, data)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_truth_itself_scores_one(data):
    document = json.loads(data.source.annotations.read_text())
    sides = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    truth = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0,
         "segmentation": compressed(decoded(a["segmentation"], *sides[a["image_id"]]))}
        for a in document["annotations"] if not a.get("iscrowd")
    ]  # fmt: skip

    metrics = score(data, truth)
    assert metrics["coco/box_ap"] == pytest.approx(1.0)
    assert metrics["coco/mask_ap"] == pytest.approx(1.0)
