"""How many images a second does the data loader give, against plain reading and against what training consumes?

    PYTHONPATH=. python experiments/benchmarks/loader.py                  # demo data of three sizes, 1 and 2 threads and processes
    PYTHONPATH=. python experiments/benchmarks/loader.py --sides 256 --workers 1 2 4 8 --json

The loader decodes, draws masks, resizes, flips, normalises and pads to batches of four. `plain reading` is torchvision's decode_image of
the same files in one thread, and nothing else. The step is a training step on these batches in our fastest form: on a GPU Mask R-CNN
with TSB (side, 5/7, 3/7), else the demo's PIIP-TB (side, 2/3), the network that eats most. Wall time, best half of the rounds.
A ratio to the step above 1 means that training does not wait. Growth with the number of pixels: CPU time of one thread.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import timing
import torch
from forms import ends
from torchvision.io import ImageReadMode, decode_image
from train_step import Step

from piip.contracts import Input
from piip.data.demo.make import Recipe, make_demo
from piip.data.formats.coco import CocoDataset
from piip.data.loader import TrainLoader
from piip.data.samples import Batch
from piip.data.sources import Source
from piip.presets import mask_rcnn_1x, mask_rcnn_pico, pico, piip
from piip.spec import CocoSpec, ExperimentSpec

BATCH = 4
SPEC = CocoSpec(name="demo", short_ratio=1.0, pad_multiple=32)


def dataset(folder: Path, side: int, images: int) -> CocoDataset:
    """Demo images of a width, drawn into `folder`."""
    make_demo(folder, Recipe(train=images, val=1, sides=(side, side), objects=(max(4, side // 12), side // 2)))
    source = Source(folder / "annotations" / "instances_train.json", folder / "train")
    return CocoDataset(source, SPEC, Input(side, (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)), training=True)


def plain_reading(data: CocoDataset, images: int) -> float:
    """Images a second of torchvision, decoded and dropped."""
    files = [str(data.source.images / info.file_name) for info in data.infos]
    start = time.perf_counter()
    for file in itertools.islice(itertools.cycle(files), images):
        decode_image(file, mode=ImageReadMode.RGB)
    return images / (time.perf_counter() - start)


def loading(data: CocoDataset, images: int, *, threads: int = 1, processes: int = 0) -> float:
    """Images a second, from when the first batches are there: what is ahead is then as much at the start as at the end."""
    loader = TrainLoader(data, batch_size=BATCH, num_threads=threads, num_processes=processes)
    batches = loader.batches_from(0)
    for _ in range(2 * max(threads, processes)):
        next(batches)
    start = time.perf_counter()
    for _ in range(images // BATCH):
        next(batches)
    taken = time.perf_counter() - start
    batches.close()  # type: ignore[attr-defined]
    return images // BATCH * BATCH / taken


def network(side: int, device: torch.device) -> ExperimentSpec:
    """What is trained on the images."""
    if device.type == "cuda":
        return mask_rcnn_1x(piip("TSB", (side, round(side * 5 / 7), round(side * 3 / 7))))
    return mask_rcnn_pico(pico("TB", (side, side * 2 // 3), pretrained=False), steps=1)


def training(data: CocoDataset, device: torch.device) -> Callable[[], float]:
    """Images a second of a training step; the first warms up."""
    batch: Batch = next(TrainLoader(data, batch_size=BATCH).batches_from(0)).to(device)
    step = Step(network(data.wanted.resolution, device), (batch.images, batch.sizes, batch.targets))
    run = step.run(ends()["ours bf16"])

    def rate() -> float:
        start = time.perf_counter()
        run()  # gives the loss as a number, so the GPU is done
        return BATCH / (time.perf_counter() - start)

    rate()
    return rate


def measure(data: CocoDataset, workers: Sequence[int], *, images: int, rounds: int) -> list[timing.Row]:
    """A row for plain reading, for threads and for processes; methods take turns."""
    methods: dict[str, Callable[[], float]] = {"plain reading": lambda: plain_reading(data, images)}
    for number in workers:
        methods[f"threads {number}"] = lambda n=number: loading(data, images, threads=n)
        methods[f"processes {number}"] = lambda n=number: loading(data, images, processes=n)
    methods["training step"] = training(data, timing.device())
    rates: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            rates[name].append(method())
    best = {name: statistics.median(sorted(found)[len(found) // 2 :]) for name, found in rates.items()}
    return [
        {
            "side": data.wanted.resolution,
            "what": name,
            "images/s": rate,
            "x plain reading": rate / best["plain reading"],
            "x training step": rate / best["training step"],
        }
        for name, rate in best.items()
    ]


def cpu_seconds(data: CocoDataset, images: int, rounds: int) -> dict[str, float]:
    """CPU time an image in this thread alone: loaded in batches, also with what a process pays to share them, and plainly read."""
    keys = range(min(images, len(data)))

    def batches() -> list[Batch]:
        some = [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]
        return [Batch.of([data.sample(index, 0) for index in batch], SPEC.pad_multiple) for batch in some]

    def shared() -> None:
        for batch in batches():
            for tensor in (batch.images, *itertools.chain.from_iterable(t.values() for t in batch.targets)):
                tensor.share_memory_()

    methods = {
        "loader": batches,
        "loader, into shared memory": shared,
        "plain reading": lambda: plain_reading(data, len(keys)),
    }
    return {k: v / len(keys) for k, v in timing.interleaved(methods, rounds=rounds).items()}


@dataclass
class Options(timing.Options):
    """What this benchmark is told."""

    rounds: int = 5
    """Turns of each method."""
    sides: tuple[int, ...] = (256, 512, 1024)
    """Widths of images in pixels, one after the other."""
    workers: tuple[int, ...] = (1, 2)
    """Numbers of threads, and of processes."""
    images: int = 32
    """Images per turn."""


def main() -> None:
    """Measures what was asked for and prints a table."""
    given = timing.given(Options, __doc__)
    torch.set_num_threads(1)
    rows: list[timing.Row] = []
    cpu: dict[int, dict[str, float]] = {}
    for side in given.sides:
        with tempfile.TemporaryDirectory() as folder:
            timing.progress(f"{side} px")
            data = dataset(Path(folder), side, given.images)
            cpu[side] = cpu_seconds(data, 8, given.rounds)
            rows += measure(data, given.workers, images=given.images, rounds=given.rounds)
    summary: timing.Row = {}
    for what in ("loader", "loader, into shared memory", "plain reading"):
        figures = [seconds[what] for seconds in cpu.values()]
        summary[f"{what}, CPU ms an image"] = ", ".join(f"{1e3 * f:.1f}" for f in figures)
        summary[f"{what}, exponent over pixels"] = timing.exponent([side**2 for side in cpu], figures)
    timing.report(rows, as_json=given.json, summary=summary)


if __name__ == "__main__":
    main()
