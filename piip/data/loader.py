"""Batches in an order that only seed and epoch decide: not the number of workers, threads, or restarts."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from piip.contracts import Dataset
from piip.data.samples import Batch, ImageInfo, Sample
from piip.data.sources import DataError
from piip.spec.training import split_batch

Key = list[tuple[int, int]]
"""What a micro batch is made from: (index, seed) of each sample."""


def epoch_batches(portrait: NDArray[np.bool_], batch_size: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of one epoch: (steps, batch_size) indices.

    Landscape and portrait images never share a batch (padding would cost up to half of it). Every image comes once, but for those
    that fill the last batch of either kind: they are of the epoch's beginning, and of that kind.

    Args:
        portrait: (N,) whether an image is higher than wide.
        batch_size: Images per optimizer step over all workers.
        seed: Of the training.
        epoch: From 0.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(portrait))
    where = np.argsort(order)  # a batch comes when its last image would have
    full: list[tuple[int, NDArray[np.int64]]] = []
    last: list[NDArray[np.int64]] = []
    for group in (order[~portrait[order]], order[portrait[order]]):
        cut = len(group) // batch_size * batch_size
        full += [(int(where[batch[-1]]), batch) for batch in group[:cut].reshape(-1, batch_size)]
        if len(rest := group[cut:]):
            last.append(np.concatenate([rest, np.resize(group, batch_size - len(rest))]))
    batches = [batch for _, batch in sorted(full, key=lambda pair: pair[0])]
    return np.array([*batches, *last], dtype=np.int64).reshape(-1, batch_size)


def steps_per_epoch(infos: Sequence[ImageInfo], batch_size: int) -> int:
    """Batches of an epoch, the last ones of landscape and of portrait images filled up."""
    portraits = sum(map(_is_portrait, infos))
    return -(-portraits // batch_size) - (-(len(infos) - portraits) // batch_size)


def _is_portrait(info: ImageInfo) -> bool:
    return info.height > info.width


class TrainLoader:
    """Endless micro batches of one worker.

    Args:
        dataset: A training set.
        batch_size: Images per optimizer step over all workers.
        micro_batch: Images per worker and forward pass; None takes batch_size / world_size.
        rank: Of this worker.
        world_size: Workers.
        seed: Of the order and of the augmentation.
        num_threads: Threads that decode ahead, for workers with a core or two.
        num_processes: Processes that decode instead (COCO scale); 0 takes the threads.
    """

    def __init__(
        self, dataset: Dataset, *, batch_size: int, micro_batch: int | None = None, rank: int = 0,
        world_size: int = 1, seed: int = 0, num_threads: int = 1, num_processes: int = 0,
    ):  # fmt: skip
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.num_threads, self.num_processes = num_threads, num_processes
        self.micro_batch, self.accumulate = split_batch(batch_size, micro_batch, world_size)
        self.steps_per_epoch = steps_per_epoch(dataset.infos, batch_size)
        self._portrait = np.array(list(map(_is_portrait, dataset.infos)))

    def batches_from(self, step: int) -> Iterator[Batch]:
        """Micro batches for ever, `accumulate` per optimizer step, from the step after `step` have been done.

        The images and their augmentation are those an uninterrupted training would see there.
        """
        yield from _loaded(self.dataset, self._keys_from(step), threads=self.num_threads, processes=self.num_processes)

    def _keys_from(self, step: int) -> Iterator[Key]:
        first_epoch, first = divmod(step, self.steps_per_epoch)
        for epoch in count(first_epoch):
            order = epoch_batches(self._portrait, self.batch_size, seed=self.seed, epoch=epoch)
            augmentation = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0])
            for batch in order[first if epoch == first_epoch else 0 :]:
                # (accumulate, world_size, micro_batch); worker r has column r
                for mine in batch.reshape(self.accumulate, self.world_size, self.micro_batch)[:, self.rank]:
                    yield [(int(index), augmentation) for index in mine]


class EvalLoader:
    """Every image once, in batches that are the same for any number of workers, who take turns with them.

    Where images differ in size each is alone in its batch: PIIP has no padding mask, so an image padded to its neighbour's size
    would give other numbers than alone. Where all are of one size, `Dataset.eval_batch` neighbours share one.
    """

    def __init__(
        self, dataset: Dataset, rank: int = 0, world_size: int = 1, *, num_threads: int = 1, num_processes: int = 0
    ):
        self.dataset = dataset
        size = dataset.eval_batch
        starts = range(0, len(dataset), size)
        self.batches = [range(start, min(start + size, len(dataset))) for start in starts[rank::world_size]]
        self.num_threads, self.num_processes = num_threads, num_processes

    def __len__(self) -> int:
        """Images of this worker."""
        return sum(map(len, self.batches))

    def __iter__(self) -> Iterator[Batch]:
        """Broken images raise, or under `skip` are left out (and count as nothing found)."""
        keys = ([(index, 0) for index in batch] for batch in self.batches)
        return _loaded(self.dataset, keys, threads=self.num_threads, processes=self.num_processes)


def _load(dataset: Dataset, key: Key, *, pin: bool = False) -> Batch | None:
    """The batch of a key; evaluation images that are skipped are not in it, None where none is left."""
    samples: list[Sample] = []
    for index, seed in key:
        try:
            samples.append(dataset.sample(index, seed))
        except DataError as error:
            if dataset.training or dataset.broken_images == "refuse":
                raise
            dataset.note_broken(index, error)
    if not samples:
        return None
    batch = dataset.collate(samples, key[0][1])
    return batch.pin_memory() if pin else batch


class _ByKey:
    """A data set whose index is a whole key, for torch's DataLoader."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, key: Key) -> Batch | DataError | None:
        try:
            return _load(self.dataset, key)
        except DataError as error:
            return error  # raised in the process that asked: torch would wrap its one line in a traceback


def _loaded(dataset: Dataset, keys: Iterator[Key], *, threads: int, processes: int) -> Iterator[Batch]:
    """Batches in the order of their keys, loaded ahead; where there is a GPU, in page-locked memory."""
    pin = torch.cuda.is_available()
    if processes:
        # batch_size None: an item of the data set is a batch already; a generator of its own: it would draw its processes' seed from
        # the one that training draws from
        batches = DataLoader(
            _ByKey(dataset), sampler=keys, batch_size=None, num_workers=processes, prefetch_factor=2, pin_memory=pin,  # pyright: ignore[reportArgumentType]
            generator=torch.Generator(),
        )  # fmt: skip
    else:
        batches = _ahead(keys, partial(_load, dataset, pin=pin), threads=threads)
    for batch in batches:
        if isinstance(batch, DataError):
            raise batch
        if batch is not None:
            yield batch


def _ahead(keys: Iterator[Key], load: Callable[[Key], Batch | None], *, threads: int) -> Iterator[Batch | None]:
    """`map(load, keys)` with a few loads under way in threads; they end when the iterator is closed."""
    pool = ThreadPoolExecutor(max_workers=max(threads, 1), thread_name_prefix="piip-data")
    try:
        waiting = deque(pool.submit(load, key) for key in islice(keys, 2 * max(threads, 1)))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(load, key) for key in islice(keys, 1))
            yield batch
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
