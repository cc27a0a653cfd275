import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from pico_trials import pico_spec

from piip.data import open_dataset
from piip.data.masks import compressed, decoded
from piip.data.sources import Source
from piip.models import build_model
from piip.training import evaluate as module
from piip.training.evaluate import evaluate, in_order, score

SPEC = pico_spec(model__head__score_threshold=0.0)  # untrained, it finds something all the same


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(SPEC.model, pretrained=False)


@pytest.fixture(scope="module")
def data(demo_folder):
    return open_dataset(
        SPEC.data, Source(demo_folder / "annotations" / "instances_val.json", demo_folder / "val"), SPEC.model.input
    )


@pytest.fixture(scope="module")
def whole(model, data):
    """One worker's evaluation."""
    return evaluate(model, data)


@pytest.mark.parametrize("world_size", [2, 4])  # three images: one has two of them; one has none
def test_the_number_of_workers_changes_neither_a_number_nor_a_row(world_size, model, data, whole):
    metrics, table, _ = whole
    parts = [score(model, data, rank=rank, world_size=world_size) for rank in range(world_size)]
    merged = data.metric()
    merged.merge([pickle.loads(pickle.dumps(metric.state())) for metric, _ in reversed(parts)])

    assert merged.compute() == metrics
    assert in_order([data.to_table(results) for _, results in parts], data) == table
    assert len(table) > 0


def test_rows_are_in_the_order_of_the_data_set(data, whole):
    ids = [info.image_id for info in data.infos]
    table = whole.table

    places = [ids.index(image_id) for image_id in table["image_id"].to_pylist()]
    assert sorted(set(places)) == list(range(len(ids)))
    assert places == sorted(places)


def test_results_are_handed_out_where_they_are_wanted_and_progress_counts_images(model, data, whole):
    asked, seen = [], []
    metrics, kept, classes = evaluate(
        model, data,
        keep=lambda metrics: asked.append(metrics) or False, progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip

    assert kept is None
    assert classes == []
    assert asked == [metrics] == [whole.metrics]
    assert metrics.keys() >= {"coco/box_ap", "coco/mask_ap"}
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_classes_have_their_numbers_in_order_of_label(data, whole):
    metrics, _, classes = whole

    assert [{"id": row["id"], "name": row["name"]} for row in classes] == data.classes
    scored = [row["box_ap"] for row in classes if "box_ap" in row]
    assert scored
    assert sum(scored) / len(scored) == pytest.approx(metrics["coco/box_ap"])


@pytest.mark.parametrize("training", [True, False])
def test_a_model_goes_back_to_the_mode_it_was_in_and_nothing_random_is_drawn(training, model, data, whole):
    model.train(training)
    before = torch.get_rng_state()

    again = evaluate(model, data)

    assert model.training is training
    assert torch.equal(torch.get_rng_state(), before)
    assert again == whole  # whatever mode it came in


def test_an_image_that_is_skipped_counts_as_nothing_found(model, data, sources):
    spec = SPEC.data.override({"broken_images": "skip"})
    broken = sources["val"].images / data.infos[0].file_name
    broken.write_bytes(broken.read_bytes()[:300])

    metrics, table, _ = evaluate(model, open_dataset(spec, sources["val"], SPEC.model.input))

    assert data.infos[0].image_id not in table["image_id"].to_pylist()
    expected = data.metric()
    for info in data.infos[1:]:
        expected.update(data.from_table(table, info), info)
    assert metrics == expected.compute()


def test_the_truth_itself_scores_one(data):
    metric = data.metric()
    for index, info in enumerate(data.infos):
        truth = [
            {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0,
             "segmentation": compressed(decoded(a["segmentation"], info.height, info.width))}
            for a in data.truth(index) if not a["iscrowd"]
        ]  # fmt: skip
        metric.update(truth, info)

    metrics = metric.compute()
    assert metrics["coco/box_ap"] == pytest.approx(1.0)
    assert metrics["coco/mask_ap"] == pytest.approx(1.0)


class BoxesAlone(torch.nn.Module):
    """A network without a mask head, beside one with."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, sizes=None, targets=None):
        return [{k: v for k, v in one.items() if k != "masks"} for one in self.model(images, sizes, targets)]


def test_a_network_without_masks_is_scored_by_its_boxes(model, data, whole):
    metrics, table, _ = whole
    boxes, bare, _ = evaluate(BoxesAlone(model), data)

    assert boxes == {name: value for name, value in metrics.items() if name.startswith("coco/box_")}
    assert bare.drop_columns(["segmentation"]) == table.drop_columns(["segmentation"])
    assert bare["segmentation"].null_count == len(bare)


class Ranks:
    """Two ranks in two threads, with what evaluation takes of torch.distributed; counts what rank 0 was given."""

    def __init__(self):
        self.mine, self.meet, self.slots, self.travelled = threading.local(), threading.Barrier(2, timeout=60), {}, []

    def run(self, work):
        def one(rank):
            self.mine.rank = rank
            return work(rank)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, range(2)))

    def _exchange(self, mine):
        self.slots[self.mine.rank] = mine
        self.meet.wait()
        everyones = [self.slots[rank] for rank in range(2)]
        self.meet.wait()
        return everyones

    def broadcast(self, tensor, src):
        tensor.copy_(self._exchange(tensor.clone())[src])

    def broadcast_object_list(self, objects, src):
        objects[:] = self._exchange(list(objects))[src]

    def gather_object(self, mine, parts, dst):
        everyones = self._exchange(pickle.dumps(mine))
        assert (parts is not None) == (self.mine.rank == dst)
        if parts is not None:
            parts[:] = map(pickle.loads, everyones)
            self.travelled.append(len(everyones[1]))


class Counts(torch.nn.Module):
    """Finds in every image one object, as large as a running statistic of its rank."""

    def __init__(self, size):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.register_buffer("size", torch.tensor(float(size)))

    def forward(self, images, sizes):
        box = torch.stack([torch.zeros(()), torch.zeros(()), self.size, self.size])[None]
        return [{"boxes": box, "labels": torch.ones(1, dtype=torch.int64), "scores": torch.ones(1)} for _ in sizes]


@pytest.mark.parametrize("wanted", [True, False])
def test_ranks_see_with_the_first_ones_statistics_and_it_has_all_results(wanted, data, monkeypatch):
    ranks, asked = Ranks(), []
    monkeypatch.setattr(module, "dist", ranks)

    first, second = ranks.run(
        lambda rank: evaluate(
            Counts(40 + 8 * rank), data, rank=rank, world_size=2, keep=lambda m: asked.append(m) or wanted
        )
    )

    alone = evaluate(Counts(40), data, keep=lambda _: wanted)
    assert first == alone
    assert (first.table is None) == (not wanted)
    assert second == ({}, None, [])
    assert asked == [first.metrics]
    assert len(ranks.travelled) == 1 + wanted  # states, and tables where they are kept
