"""How many images a second does a core load, against torchvision's CocoDetection and v2 transforms, at equal output?

    PYTHONPATH=. python experiments/benchmarks/loading.py                 # 256, 512 and 1024 px
    PYTHONPATH=. python experiments/benchmarks/loading.py --sides 512 --rounds 15 --json

Made photographs of COCO's size and weight (640 x 480, 130 KB, seven polygons of 24 corners) are resized, flipped every one, normalised
and padded to batches of four. Both give the same bits of images, boxes and labels. Masks: torchvision's are arrays of the network's
size, sampled at the nearest pixel; ours are runs, of what covers half a pixel, and the losses make arrays of a few at a time, so `masks as
arrays` is ours with all of them made. `transforms` begin with images in memory. CPU time of one thread, medians of rounds in turns.
"""

import contextlib
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timing
import torch
from photographs import HEIGHT, WIDTH, make
from torch import Tensor
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2
from torchvision.tv_tensors import Image as ImageTensor

from piip.contracts import Input
from piip.data import packing
from piip.data.formats.coco import CocoDataset
from piip.data.samples import Batch
from piip.data.sources import Source
from piip.ops.mask_runs import array_of
from piip.spec import CocoSpec

BATCH, MULTIPLE = 4, 32
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SPEC = CocoSpec(name="made", short_ratio=1.0, pad_multiple=MULTIPLE, flip=1.0)


class Reference:
    """torchvision's own way."""

    def __init__(self, source: Source, side: int):
        with contextlib.redirect_stdout(io.StringIO()):
            plain = CocoDetection(source.images, str(source.annotations))
        self.data = wrap_dataset_for_transforms_v2(plain, target_keys=("boxes", "labels", "masks"))
        kinds: dict[Any, torch.dtype | None] = {ImageTensor: torch.float32, "others": None}
        self.transforms = v2.Compose(
            [
                v2.ToImage(),
                v2.Resize((round(HEIGHT * side / WIDTH), side), antialias=True),
                v2.RandomHorizontalFlip(1.0),
                v2.ClampBoundingBoxes(),
                v2.SanitizeBoundingBoxes(min_size=1),
                v2.ToDtype(kinds, scale=False),
                v2.Normalize(MEAN, STD),
            ]
        )

    def batch(self, samples: list[Any]) -> tuple[Tensor, list[Any]]:
        """Images padded and stacked, targets."""
        images, targets = zip(*(self.transforms(*sample) for sample in samples), strict=True)
        sides = [-(-max(image.shape[axis] for image in images) // MULTIPLE) * MULTIPLE for axis in (1, 2)]
        padded = [v2.functional.pad(i, [0, 0, sides[1] - i.shape[2], sides[0] - i.shape[1]]) for i in images]
        return torch.stack(padded), list(targets)


def split(source: Source, side: int) -> CocoDataset:
    """Ours."""
    return CocoDataset(source, SPEC, Input(side, MEAN, STD), training=True)


def loaded(data: CocoDataset, keys: range) -> Batch:
    """A batch of ours."""
    return data.collate([data.sample(index, 0) for index in keys])


def arrays(batch: Batch) -> list[Tensor]:
    """All masks of a batch as arrays, as torchvision gives them."""
    pairs = zip(batch.targets, batch.sizes, strict=True)
    return [array_of(t["mask_runs"], torch.arange(len(t["labels"])), size).bool() for t, size in pairs]


def agreement(reference: Reference, data: CocoDataset, images: int) -> float:
    """Least IoU of a mask with torchvision's; ends the benchmark where images, boxes or labels are not the same bits."""
    least = 1.0
    for keys in keys_of(images):
        pixels, targets = reference.batch([reference.data[k] for k in keys])
        ours = loaded(data, keys)
        alike = [
            torch.equal(t[k], o[k]) for t, o in zip(targets, ours.targets, strict=True) for k in ("boxes", "labels")
        ]
        if not (torch.equal(pixels.as_subclass(Tensor), ours.images) and all(alike)):
            raise SystemExit(f"images {keys} or their boxes differ")
        for found, target in zip(arrays(ours), targets, strict=True):
            both, either = (found & target["masks"]).sum((1, 2)), (found | target["masks"]).sum((1, 2))
            least = min(least, (both / either).min().item())
    return least


def keys_of(images: int) -> list[range]:
    """Indices, a batch each."""
    return [range(start, start + BATCH) for start in range(0, images, BATCH)]


def measure(folder: Path, source: Source, side: int, *, images: int, rounds: int) -> list[timing.Row]:
    """A row for each way to load, after the outputs have been compared."""
    reference, data = Reference(source, side), split(source, side)
    packs = {}
    for name, pixels in (("packed", False), ("packed, pixels", True)):
        packing.pack(source.images, folder / name, pixels=pixels)
        packs[name] = split(Source(source.annotations, folder / name), side)
    iou = min(agreement(reference, one, images) for one in (data, *packs.values()))
    keys = keys_of(images)
    raw = [reference.data[k] for k in range(images)]
    decoded = [data._read(k) for k in range(images)]

    def ours(one: CocoDataset) -> Callable[[], object]:
        return lambda: [loaded(one, some) for some in keys]

    def transformed(some: range) -> Batch:
        return data.collate([data._augmented(*decoded[k], data.infos[k], 0, k) for k in some])

    methods: dict[str, tuple[str, Callable[[], object]]] = {
        "torchvision": ("", lambda: [reference.batch([reference.data[k] for k in some]) for some in keys]),
        "files": ("torchvision", ours(data)),
        "files, masks as arrays": ("torchvision", lambda: [arrays(loaded(data, some)) for some in keys]),
        **{name: ("torchvision", ours(one)) for name, one in packs.items()},
        "torchvision's transforms": ("", lambda: [reference.batch([raw[k] for k in some]) for some in keys]),
        "transforms": ("torchvision's transforms", lambda: [transformed(some) for some in keys]),
    }
    taken = timing.interleaved({name: method for name, (_, method) in methods.items()}, rounds=rounds)
    return [
        {
            "side": side,
            "what": name,
            "images/s a core": images / taken[name],
            "CPU ms an image": 1e3 * taken[name] / images,
            "x torchvision": taken[beside or name] / taken[name],
            "least mask IoU": iou,
        }
        for name, (beside, _) in methods.items()
    ]


@dataclass
class Options(timing.Options):
    """What this benchmark is told."""

    rounds: int = 7
    """Turns of each method."""
    sides: tuple[int, ...] = (256, 512, 1024)
    """Long sides of the network's images in pixels, one after the other."""
    images: int = 16
    """Images a turn, a multiple of four."""


def main() -> None:
    """Measures what was asked for and prints a table."""
    given = timing.given(Options, __doc__)
    torch.set_num_threads(1)
    rows: list[timing.Row] = []
    for side in given.sides:
        with tempfile.TemporaryDirectory() as folder:
            timing.progress(f"{side} px")
            source = make(Path(folder) / "made", given.images)
            rows += measure(Path(folder), source, side, images=given.images, rounds=given.rounds)
    timing.report(rows, as_json=given.json)


if __name__ == "__main__":
    main()
