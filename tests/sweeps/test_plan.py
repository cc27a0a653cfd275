import json
import re
from pathlib import Path

import pytest
from label_maps import MapFolder, stripes
from tiny import ROWS

from piip.catalogue.preflight import check
from piip.data.sources import DataError, Source
from piip.presets import pico, upernet_pico
from piip.record.events import read_status
from piip.record.journal import Journal
from piip.record.runs import read_record
from piip.record.scores import SCORE, scores_of
from piip.spec import Ade20kSpec, ExperimentSpec
from piip.sweeps import plan, splits
from piip.sweeps.plan import plan_trials
from piip.sweeps.resources import Resources, concurrency
from piip.sweeps.splits import Split

SPEC: ExperimentSpec = ROWS["pico"][1]


@pytest.mark.parametrize(
    ("workers", "nodes", "expected"),
    [
        (1, [{"CPU": 2.0}], 2),
        (2, [{"CPU": 1.0}, {"CPU": 1.0}], 1),
        (2, [{}, {"CPU": 4.0}, {"CPU": 3.0}], 3),
        (3, [{"CPU": 2.0}, {"CPU": 2.0}], 1),
    ],
)
def test_as_many_trials_as_have_room_for_all_their_workers(workers, nodes, expected):
    total = {"CPU": sum(node.get("CPU", 0) for node in nodes)}

    assert concurrency(Resources(workers), total, nodes) == expected


def test_gpus_count_too():
    nodes = [{"CPU": 64.0, "GPU": 8.0}] * 2

    assert concurrency(Resources(8, 4, 1), {"CPU": 128.0, "GPU": 16.0}, nodes) == 2


def test_a_trial_larger_than_the_cluster_is_refused():
    message = (
        "a trial of 3 workers needs 3 CPU, 3 GPU, the cluster has 2 CPU, 0 GPU. Use fewer --workers, or add nodes."
    )

    with pytest.raises(ValueError, match=re.escape(message)):
        concurrency(Resources(3, 1, 1), {"CPU": 2.0}, [{"CPU": 2.0}])


def test_a_worker_larger_than_every_node_is_refused():
    with pytest.raises(ValueError, match=r"only 0 such places exist and a trial has 1 workers"):
        concurrency(Resources(1, 3), {"CPU": 4.0}, [{"CPU": 2.0}, {"CPU": 2.0}])


def test_workers_that_do_not_divide_the_batch_are_refused_with_those_that_do():
    spec = SPEC.override({"train.batch_size": 16, "train.micro_batch": 2})

    check([spec], workers=8, gpus_per_worker=0)
    message = "batch_size 16 does not divide by 3 workers x 2 images. Workers that fit: 1, 2, 4, 8."
    with pytest.raises(ValueError, match=re.escape(message)):
        check([spec], workers=3, gpus_per_worker=0)


@pytest.mark.parametrize(
    ("changes", "workers", "gpus", "refused"),
    [
        ({}, 4, 0, True),
        ({}, 2, 0, False),
        ({}, 4, 1, False),  # statistics are shared
        ({"train.micro_batch": 1}, 1, 1, True),  # with nobody
        ({"train.micro_batch": 1, "model.head.pool_scales": (2, 3)}, 4, 0, False),
    ],
)
def test_an_upernet_of_one_image_a_worker_is_refused(changes, workers, gpus, refused):
    spec = upernet_pico(pico("TB", (96, 64), pretrained=False), steps=1).override(changes)  # batches of 4

    if not refused:
        return check([spec], workers=workers, gpus_per_worker=gpus)
    with pytest.raises(
        ValueError, match=r"would train on one image a worker: .* Give each worker two: train.batch_size="
    ):
        check([spec], workers=workers, gpus_per_worker=gpus)


def test_planning_opens_a_sweep_and_its_trials_once(tiny_coco):
    custom = {"train": tiny_coco, "val": tiny_coco}
    specs = [row.override({"data.name": "custom"}) for row in ROWS["pico"]]

    parent_key, planned = plan_trials(specs, experiment="e", resources=Resources(), custom=custom)
    again = plan_trials(specs, experiment="e", resources=Resources(), custom=custom)

    assert again == (parent_key, planned)
    assert [p.status for p in planned] == ["PENDING", "PENDING"]
    assert [p.plan.num_steps for p in planned] == [30, 30]
    folders = [plan.home.journal_dir(p.trial.key) for p in planned]
    assert {read_record(folder).parent_key for folder in folders} == {parent_key}
    assert {scores_of(read_record(folder).tags) for folder in folders} == {specs[0].data.scores}
    assert {read_record(folder).tags[SCORE] for folder in folders} == {"coco/box_ap"}
    assert [read_record(folder).tags["piip.title"] for folder in folders] == [s.model.backbone.title for s in specs]
    assert all(p.trial.spec.model.head.num_classes == 3 for p in planned)  # as many as the data has
    for folder in folders:
        lines = (folder / "events.jsonl").read_text().splitlines()
        assert sum("cost/gflops" in line for line in lines) == 1
        assert sum("spec.json" in line for line in lines) == 1


def test_other_numbers_of_classes_than_the_datas_are_said_once(tiny_coco, caplog):
    row = SPEC.override({"data.name": "custom"})
    rows = [row.override({"model.head.num_classes": n, "name": f"{n}_{i}"}) for n in (3, 7) for i in (0, 1)]

    plan_trials(rows, experiment="e", resources=Resources(), custom={"train": tiny_coco, "val": tiny_coco})

    said = f"model.head.num_classes is 3, not 7: as many classes as there are in {tiny_coco.annotations}"
    assert [record.getMessage() for record in caplog.records if "num_classes" in record.getMessage()] == [said]


def test_a_split_is_opened_once_whatever_the_rows(tiny_coco, monkeypatch):
    opened = []
    real = splits.open_dataset
    monkeypatch.setattr(splits, "open_dataset", lambda *a, **k: opened.append(k["training"]) or real(*a, **k))
    row = SPEC.override({"data.name": "custom"})
    sides = [
        row.override({"model.backbone.branches.0.resolution": side, "name": f"side_{side}"}) for side in (64, 96, 128)
    ]

    plan_trials(sides, experiment="e", resources=Resources(), custom={"train": tiny_coco, "val": tiny_coco})
    assert opened == [True, False]

    skipping = [side.override({"data.broken_images": "skip"}) for side in sides]  # other files may be in them
    plan_trials(
        [*sides, *skipping], experiment="e", resources=Resources(), custom={"train": tiny_coco, "val": tiny_coco}
    )
    assert opened == [True, False] * 3


def test_an_epoch_of_the_plan_is_the_loaders(tiny_coco):
    row = SPEC.override({"data.name": "custom", "train.steps": None, "train.epochs": 3})

    _, (planned,) = plan_trials(
        [row], experiment="e", resources=Resources(), custom={"train": tiny_coco, "val": tiny_coco}
    )

    assert planned.plan.num_steps == 3 * 3  # three landscape images and a portrait one in twos


def test_fresh_begins_another_take_and_later_calls_go_on_with_it(tiny_coco):
    custom = {"train": tiny_coco, "val": tiny_coco}
    specs = [SPEC.override({"data.name": "custom"})]

    def keys(fresh: bool) -> list[str]:
        _, planned = plan_trials(specs, experiment="e", resources=Resources(), custom=custom, fresh=fresh)
        return [p.trial.key for p in planned]

    (first,), (second,) = keys(False), keys(True)
    Journal(plan.home.journal_dir(second), "attempt").finish("FAILED")

    assert second != first
    assert keys(False) == [second]
    assert read_status(plan.home.journal_dir(first)) == "PENDING"


def test_splits_of_different_classes_are_refused(coco_folder, tiny_coco, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(tiny_coco.annotations.read_text().replace('"kite"', '"box"'))
    custom = {"train": tiny_coco, "val": Source(other, tiny_coco.images)}

    with pytest.raises(
        ValueError, match=r"different classes: 1 only in training \(kite\); 1 only in validation \(box\)"
    ):
        plan_trials([SPEC.override({"data.name": "custom"})], experiment="e", resources=Resources(), custom=custom)


def two_data(monkeypatch) -> None:
    """Rows on data `a` and on data `b`, which are no files."""
    classes = [{"id": 0, "name": "other"}, {"id": 7, "name": "kite"}]

    def of(_, spec):
        return {s: Split(Source(Path(s), Path(s)), classes, spec.data.name * 16, []) for s in ("train", "val")}

    monkeypatch.setattr(plan.Splits, "of", of)


def test_trials_to_be_compared_are_scored_on_the_same_data(monkeypatch):
    two_data(monkeypatch)
    rows = [SPEC.override({"data.name": name, "name": name}) for name in "ab"]

    with pytest.raises(
        ValueError, match=r"rows are scored on a \(digest a{8}\), b \(digest b{8}\). Name rows of one of them"
    ):
        plan_trials(rows, experiment="e", resources=Resources(), compared=True)
    assert not plan.home.journal_dir("any").parent.exists()


def test_how_label_maps_are_read_is_said_once(monkeypatch, caplog):
    two_data(monkeypatch)
    data = Ade20kSpec(name="a", reduce_zero_label=False).model_dump(mode="json")
    rows = [SPEC.override({"data": data, "name": name, "train.steps": 3}) for name in "cd"]

    plan_trials(rows, experiment="e", resources=Resources())

    said = [record.getMessage() for record in caplog.records if "label maps" in record.getMessage()]
    assert said == [rows[0].data.reading([{"id": 0, "name": "other"}, {"id": 7, "name": "kite"}])]


def test_weights_are_found_from_wherever_a_worker_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "start.pth").write_bytes(b"one")
    spec = SPEC.override(
        {"model.weights": "start.pth", "model.backbone.branches.0.weights": "deit_3_small_224_21k.pth"}
    )

    placed = plan._with_absolute_weights(spec)

    assert placed.model.weights == str(tmp_path / "start.pth")
    assert placed.model.backbone.branches[0].weights == "deit_3_small_224_21k.pth"  # a public name, no file here


@pytest.fixture
def late(coco_folder) -> Source:
    """Two images, the first one without objects."""
    coco_folder.add_image()
    coco_folder.add_object(coco_folder.add_image())
    return coco_folder.write()


def test_so_few_validation_images_that_nothing_can_be_scored_are_refused(late):
    spec, custom = SPEC.override({"data.name": "custom"}), {"train": late, "val": late}

    splits.Splits(custom, 2).of(spec)
    message = f"--max-eval-images 1: there is nothing to score in the first 1 images of {late.annotations}, so box AP (coco/box_ap)"
    with pytest.raises(DataError, match=re.escape(message)):
        splits.Splits(custom, 1).of(spec)


def test_so_few_label_maps_that_nothing_can_be_scored_are_refused(tmp_path):
    maps = MapFolder(tmp_path)
    maps.add("a", stripes(32, 32, (0,)))
    maps.add("b", stripes(32, 32))
    maps.name_classes("other", "sky", "road", "tree")
    spec = upernet_pico(pico("TB", (96, 64), pretrained=False), steps=1)
    spec = spec.override({"data.name": "custom", "data.reduce_zero_label": True})

    with pytest.raises(
        DataError, match=r"^--max-eval-images 1: .*all pixels of 1 label maps are ignored\. Take more of them"
    ):
        splits.Splits({"train": maps.source, "val": maps.source}, 1).of(spec)


def test_a_validation_split_without_objects_is_refused(late):
    document = json.loads(late.annotations.read_text())
    document["annotations"] = []
    empty = Source(late.annotations.with_name("empty.json"), late.images)
    empty.annotations.write_text(json.dumps(document))

    with pytest.raises(DataError, match=r"empty\.json: 0 of 0 objects can be learned or scored"):
        plan_trials(
            [SPEC.override({"data.name": "custom"})],
            experiment="e",
            resources=Resources(),
            custom={"train": late, "val": empty},
        )
