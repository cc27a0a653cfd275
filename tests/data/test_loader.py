import itertools
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from waiting import LONG

from piip.contracts import Input
from piip.data.formats.coco import CocoDataset
from piip.data.loader import EvalLoader, TrainLoader, epoch_batches, steps_per_epoch
from piip.data.samples import ImageInfo
from piip.data.sources import DataError
from piip.spec import CocoSpec

SPEC = CocoSpec(name="custom", short_ratio=1.0, pad_multiple=32, train_scales=(0.5, 1.0))
WANTED = Input(64, (127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
shapes = st.lists(st.booleans(), min_size=1, max_size=60).map(np.array)
batch_sizes = st.integers(1, 9)


@pytest.fixture
def train_data(coco_folder):
    for number in range(13):
        coco_folder.add_object(coco_folder.add_image(*((64, 48) if number % 3 else (48, 64))))
    return CocoDataset(coco_folder.write(), SPEC, WANTED, training=True)


def identity(batches):
    """What was seen: ids, and the pixels after augmentation."""
    return [([info.image_id for info in batch.infos], float(batch.images.double().sum())) for batch in batches]


def first(loader, number, step=0):
    batches = loader.batches_from(step)
    return [next(batches) for _ in range(number)]


def infos_of(portrait):
    return [ImageInfo(number, "", 2 if high else 1, 1 if high else 2) for number, high in enumerate(portrait)]


@given(shapes, batch_sizes, st.integers(0, 5))
def test_an_epoch_has_every_image_and_few_twice(portrait, batch_size, epoch):
    batches = epoch_batches(portrait, batch_size, seed=0, epoch=epoch)

    counts = np.bincount(batches.ravel(), minlength=len(portrait))
    assert batches.shape == (steps_per_epoch(infos_of(portrait), batch_size), batch_size)
    assert counts.min() >= 1
    assert batches.size - len(portrait) < 2 * batch_size  # less than a batch of either kind
    if batch_size <= min(portrait.sum(), (~portrait).sum()):
        assert counts.max() <= 2


@given(shapes, batch_sizes, st.integers(0, 5))
def test_no_batch_mixes_shapes(portrait, batch_size, epoch):
    batches = epoch_batches(portrait, batch_size, seed=0, epoch=epoch)

    assert all(len(set(portrait[batch])) == 1 for batch in batches)


@given(shapes, batch_sizes)
def test_all_but_the_last_batches_have_an_image_once(portrait, batch_size):
    batches = epoch_batches(portrait, batch_size, seed=3, epoch=4)
    whole = portrait.sum() // batch_size + (~portrait).sum() // batch_size

    assert len(set(batches[:whole].ravel())) == whole * batch_size


@given(shapes, batch_sizes)
def test_a_batch_comes_when_its_last_image_would_have_and_what_is_left_over_at_the_end(portrait, batch_size):
    batches = epoch_batches(portrait, batch_size, seed=3, epoch=4)

    order = np.random.default_rng([3, 4]).permutation(len(portrait))
    waiting, expected = {False: [], True: []}, []
    for index in order:  # one image after the other
        group = waiting[bool(portrait[index])]
        group.append(index)
        if len(group) == batch_size:
            expected.append(group.copy())
            group.clear()
    for high, rest in waiting.items():
        again = itertools.cycle(order[portrait[order] == high])  # filled up from the epoch's beginning
        if rest:
            expected.append([*rest, *itertools.islice(again, batch_size - len(rest))])
    assert batches.tolist() == expected


@given(shapes, batch_sizes)
def test_the_order_is_decided_by_seed_and_epoch(portrait, batch_size):
    same = [epoch_batches(portrait, batch_size, seed=3, epoch=4) for _ in range(2)]
    assert (same[0] == same[1]).all()


def test_epochs_and_seeds_differ():
    portrait = np.zeros(40, dtype=bool)
    orders = {tuple(epoch_batches(portrait, 4, seed=s, epoch=e).ravel()) for s in range(3) for e in range(3)}
    assert len(orders) == 9


@given(st.sampled_from([(1, None), (1, 1), (1, 2), (2, None), (2, 1), (4, 1), (4, 2), (8, 1)]))
def test_a_global_batch_is_the_same_for_any_number_of_workers(split):
    world_size, micro_batch = split
    data = type("Data", (), {"infos": [type("I", (), {"height": h, "width": 5})() for h in range(20)]})
    data.__len__ = lambda self: 20

    keys = []
    for rank in range(world_size):
        loader = TrainLoader(data(), batch_size=8, micro_batch=micro_batch, rank=rank, world_size=world_size)
        stream = loader._keys_from(2)
        keys += [key for _ in range(loader.accumulate) for key in next(stream)]

    whole = TrainLoader(data(), batch_size=8)
    assert sorted(keys) == sorted(next(whole._keys_from(2)))


@pytest.mark.parametrize("step", [1, 3, 4, 5, 9])
def test_resuming_sees_what_an_unbroken_training_sees(step, train_data):
    loader = TrainLoader(train_data, batch_size=4, micro_batch=2, seed=7)
    assert loader.steps_per_epoch == 4  # 13 images in fours
    assert loader.accumulate == 2

    straight, resumed = first(loader, 24), first(loader, 4, step=step)

    assert identity(resumed) == identity(straight[2 * step : 2 * step + 4])


def test_threads_and_processes_change_nothing(train_data):
    plain, threads, processes = (
        identity(first(TrainLoader(train_data, batch_size=4, seed=1, **more), 9))
        for more in ({"num_threads": 1}, {"num_threads": 4}, {"num_processes": 2})
    )
    assert plain == threads == processes


def test_another_epoch_augments_otherwise(train_data):
    loader = TrainLoader(train_data, batch_size=13)
    pixels = {batch[1] for batch in identity(first(loader, 4))}
    assert len(pixels) == 4


def test_another_seed_augments_otherwise_and_batches_are_mixed_by_it(train_data, monkeypatch):
    mixed = []
    collate = train_data.collate
    monkeypatch.setattr(train_data, "collate", lambda samples, seed=0: mixed.append(seed) or collate(samples, seed))

    loaders = [TrainLoader(train_data, batch_size=13, seed=seed) for seed in (0, 1)]
    drawn = [{seed for _, seed in next(loader._keys_from(0))} for loader in loaders]
    for loader in loaders:
        next(loader.batches_from(0)).images.sum()

    assert all(len(seeds) == 1 for seeds in drawn)
    assert drawn[0] != drawn[1]
    assert drawn[0] | drawn[1] <= set(mixed)


def test_batches_are_padded_and_say_their_content(train_data):
    batch = first(TrainLoader(train_data, batch_size=4), 1)[0]

    assert batch.images.shape[0] == len(batch.sizes) == len(batch.targets) == len(batch.infos) == 4
    for image, (height, width), target in zip(batch.images, batch.sizes, batch.targets, strict=True):
        assert image[:, height:].abs().sum() == image[:, :, width:].abs().sum() == 0
        assert (target["mask_runs"].amax(0)[1:] <= torch.tensor([height - 1, width - 1, width])).all()


@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "world_size", "message"),
    [
        (16, 2, 3, "batch_size 16 does not divide by 3 workers x 2 images. Workers that fit: 1, 2, 4, 8."),
        (16, None, 3, "batch_size 16 does not divide by 3 workers. Workers that fit: 1, 2, 4, 8, 16."),
        (2, None, 4, "batch_size 2 does not divide by 4 workers. Workers that fit: 1, 2."),
    ],
)
def test_workers_that_do_not_fit_are_refused(batch_size, micro_batch, world_size, message, train_data):
    with pytest.raises(ValueError, match="does not divide") as caught:
        TrainLoader(train_data, batch_size=batch_size, micro_batch=micro_batch, world_size=world_size)
    assert str(caught.value) == message


def test_evaluation_sees_every_image_once_and_alone(train_data):
    ids = [batch.infos[0].image_id for rank in range(3) for batch in EvalLoader(train_data, rank, 3)]
    sizes = {len(batch.infos) for batch in EvalLoader(train_data)}

    assert sorted(ids) == sorted(info.image_id for info in train_data.infos)
    assert sum(len(EvalLoader(train_data, rank, 3)) for rank in range(3)) == 13
    assert sizes == {1}


@pytest.mark.parametrize("processes", [0, 1])
def test_evaluation_leaves_out_a_broken_image_or_refuses_it(processes, tiny_coco, caplog):
    (tiny_coco.images / "000000000013.jpg").write_bytes(b"no image")
    skipping = CocoDataset(tiny_coco, SPEC.override({"broken_images": "skip"}), WANTED, training=False)
    refusing = CocoDataset(tiny_coco, SPEC, WANTED, training=False)

    assert [b.infos[0].image_id for b in EvalLoader(skipping, num_processes=processes)] == [10, 16, 19]
    assert ("000000000013.jpg: not an image" in caplog.text) == (processes == 0)  # other processes say it themselves
    with pytest.raises(DataError, match=r"^\S+000000000013\.jpg: not an image \(8 bytes\)$"):
        list(EvalLoader(refusing, num_processes=processes))


def test_a_closed_loader_leaves_no_thread(train_data):
    batches = TrainLoader(train_data, batch_size=4, num_threads=2).batches_from(0)
    next(batches)
    batches.close()
    for thread in threading.enumerate():
        if thread.name.startswith("piip-data"):
            thread.join(timeout=LONG)
    assert not [t for t in threading.enumerate() if t.name.startswith("piip-data")]


def test_a_batch_moves_to_a_device_with_its_targets(train_data):
    batch = first(TrainLoader(train_data, batch_size=2), 1)[0].to("meta")
    tensors = [batch.images, *(tensor for target in batch.targets for tensor in target.values())]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors)


def test_where_there_is_a_gpu_batches_come_in_page_locked_memory(train_data, monkeypatch):
    locked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: locked.append(tensor) or tensor)

    (batch,) = first(TrainLoader(train_data, batch_size=2), 1)

    held = {id(tensor) for tensor in locked}
    assert id(batch.images) in held
    assert all(id(tensor) in held for target in batch.targets for tensor in target.values())
