"""One file, one parsing."""

import gc
import json

import pytest
from inputs import grey

from piip.data import open_dataset
from piip.data.formats import coco_json
from piip.data.formats.coco_json import read_checked
from piip.spec import CocoSpec


@pytest.fixture
def parsings(monkeypatch):
    """Files that were parsed, in order."""
    seen, real = [], coco_json.read
    monkeypatch.setattr(coco_json, "read", lambda path: seen.append(path) or real(path))
    coco_json.forget()
    return seen


def test_training_evaluation_and_metrics_share_one_reading(tiny_coco, parsings):
    for training in (True, False, False):
        data = open_dataset(CocoSpec(name="custom"), tiny_coco, grey(64), training=training)
    first, second = data.metric(), data.metric()
    data.examples(2)

    assert parsings == [tiny_coco.annotations]
    assert first.truth is second.truth


def test_a_file_by_another_path_is_the_same_file(tiny_coco, parsings, monkeypatch):
    monkeypatch.chdir(tiny_coco.annotations.parent)

    assert read_checked(tiny_coco.annotations) is read_checked(
        tiny_coco.annotations.relative_to(tiny_coco.annotations.parent)
    )
    assert len(parsings) == 1


def test_a_changed_file_is_another(tiny_coco, parsings):
    before = read_checked(tiny_coco.annotations)
    document = json.loads(tiny_coco.annotations.read_text())
    document["annotations"].pop()
    tiny_coco.annotations.write_text(json.dumps(document))

    assert len(read_checked(tiny_coco.annotations)["annotations"]) == len(before["annotations"]) - 1


def test_a_large_file_stays_as_long_as_somebody_holds_it(tiny_coco, parsings, monkeypatch):
    monkeypatch.setattr(coco_json, "SMALL", 0)
    held = read_checked(tiny_coco.annotations)
    assert read_checked(tiny_coco.annotations) is held

    del held
    gc.collect()
    read_checked(tiny_coco.annotations)

    assert len(parsings) == 2


def test_of_training_annotations_only_what_is_learned_stays(tiny_coco, parsings, monkeypatch):
    monkeypatch.setattr(coco_json, "SMALL", 0)
    data = open_dataset(CocoSpec(name="custom"), tiny_coco, grey(64), training=True)
    gc.collect()

    assert len(coco_json._parsed) == 0
    assert len(data.sample(0, 0).target["mask_runs"])
