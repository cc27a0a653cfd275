"""A data set packed, killed midway and repeated: are the bytes those of one go, and is training's order that of its files?

    PYTHONPATH=. python experiments/benchmarks/packing.py                  # 20,000 images, 2.6 GB below the system's temporary folder
    PYTHONPATH=. python experiments/benchmarks/packing.py --images 600 --json

Wall time: of disks as much as of CPUs. Losses are those of steps of the demo's Mask R-CNN PIIP-TB on the first batches.
"""

import multiprocessing
import os
import signal
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import timing
import torch
from photographs import make

from piip.contracts import Input
from piip.data import packing
from piip.data.formats.coco import CocoDataset
from piip.data.loader import TrainLoader
from piip.data.sources import Source
from piip.models import build_model
from piip.presets import mask_rcnn_pico, pico
from piip.spec import CocoSpec

SIDE = 128
SPEC = CocoSpec(name="made", short_ratio=1.0, pad_multiple=32)


def finished(out: Path) -> int:
    """Bytes of the shards that are there."""
    return sum(shard.stat().st_size for shard in out.glob("shard-*")) if out.is_dir() else 0


def trained(data: CocoDataset, steps: int) -> list[tuple[list[int], float]]:
    """Which images each step saw, and its loss."""
    torch.manual_seed(0)
    network = build_model(
        mask_rcnn_pico(pico("TB", (SIDE, SIDE * 2 // 3), pretrained=False), steps=1).model, pretrained=False
    )
    optimizer, taken = torch.optim.SGD(network.parameters(), lr=1e-3), []
    for batch in islice(TrainLoader(data, batch_size=4).batches_from(0), steps):
        loss = sum(network(batch.images, batch.sizes, batch.targets).values(), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        taken.append(([info.image_id for info in batch.infos], loss.item()))
    return taken


def killed(folder: Path, images: int, *, batches: int, steps: int) -> timing.Row:
    """Packs a made set, killed midway and repeated, and at once; then reads and trains from both it and its files."""
    source = make(folder / "made", images)
    total = sum(entry.stat().st_size for entry in os.scandir(source.images))
    timing.progress(f"{images} images, {total / 1e9:.2f} GB")
    out, once, shard = folder / "packed", folder / "at once", min(64 * 2**20, total // 8)
    process = multiprocessing.get_context("spawn").Process(
        target=packing.pack, args=(source.images, out), kwargs={"shard_bytes": shard}
    )
    process.start()
    while finished(out) < total / 2:
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    timing.progress("killed")
    start = time.perf_counter()
    done = packing.pack(source.images, out, shard_bytes=shard)
    again = time.perf_counter() - start
    start = time.perf_counter()
    packing.pack(source.images, once, shard_bytes=shard)
    whole = time.perf_counter() - start
    names = {file.name for file in out.iterdir()} | {file.name for file in once.iterdir()}
    same = all((once / name).read_bytes() == (out / name).read_bytes() for name in names)
    wanted = Input(SIDE, (127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
    splits = [CocoDataset(Source(source.annotations, at), SPEC, wanted, training=True) for at in (source.images, out)]
    orders = [
        [
            (b.infos, b.images.double().sum().item())
            for b in islice(TrainLoader(data, batch_size=4).batches_from(0), batches)
        ]
        for data in splits
    ]
    losses = [trained(data, steps) for data in splits]
    return {
        "GB": total / 1e9, "shards": done.shards, "kept after the kill": done.kept, "s at once": whole, "s repeated": again,
        "same bytes as at once": same, f"same samples in {batches} batches": orders[0] == orders[1],
        f"same losses in {steps} steps": losses[0] == losses[1], "same digest": splits[0].digest == splits[1].digest,
    }  # fmt: skip


@dataclass
class Options:
    """What this benchmark is told."""

    images: int = 20_000
    """Of the made set."""
    batches: int = 100
    """Compared, of four images."""
    steps: int = 5
    """Trained."""
    json: bool = False
    """One JSON document on stdout instead of the table."""


def main() -> None:
    """Measures and prints a table."""
    given = timing.given(Options, __doc__)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        row = killed(Path(folder), given.images, batches=given.batches, steps=given.steps)
    timing.report([{"what": what, "found": found} for what, found in row.items()], as_json=given.json)


if __name__ == "__main__":
    main()
