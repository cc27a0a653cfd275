"""Image classification: how images go into a network, and the surest classes back into files."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image
from torch import Tensor

from piip.contracts import Input
from piip.data.drawing import draw_lines
from piip.data.samples import Batch, ImageInfo, Sample, Target
from piip.data.transforms import classification as transforms
from piip.data.transforms.detection import normalise
from piip.spec import ImageNetSpec

Results = list[dict[str, Any]]
"""The five surest classes of one image, the surest first: image_id, category_id, name, score (probability, 0..1)."""

COUNT = 5
"""Classes a result names, where there are as many."""

SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("category_id", pa.int64()),
        ("name", pa.string()),
        ("score", pa.float64()),
    ]
)


class FolderFormat:
    """Classification: images of one size, mixed with each other in training; results are the surest classes.

    Args:
        spec: How images are prepared.
        wanted: Side of all inputs in pixels, mean and std.
        classes: {"id", "name"} in order of label, ids from 0.
    """

    def __init__(self, spec: ImageNetSpec, wanted: Input, classes: list[dict[str, Any]]):
        self.spec, self.wanted, self.classes = spec, wanted, classes

    def prepare(self, image: Tensor, info: ImageInfo) -> Sample:
        """(3, H, W) uint8 as evaluation sees it: the middle, resized."""
        spec, side = self.spec, self.wanted.resolution
        return self._sample(transforms.middle(image, side, spec.crop_ratio, spec.interpolation), None, info)

    def collate(self, samples: Sequence[Sample], seed: int = 0) -> Batch:
        """Stacks; training samples are mixed, by draws from `seed` and which images they are. One alone stays as it is."""
        batch = Batch.of(samples, 1)
        if not batch.targets or len(samples) == 1:
            return batch
        rng = np.random.default_rng([seed, *(info.image_id for info in batch.infos)])
        labels = torch.stack([target["probabilities"] for target in batch.targets])
        images, labels = transforms.mix(batch.images, labels, mixup=self.spec.mixup, cutmix=self.spec.cutmix, rng=rng)
        return replace(batch, images=images, targets=[{"probabilities": row} for row in labels])

    def to_file(self, prediction: Mapping[str, Tensor], info: ImageInfo) -> Results:
        """The surest classes of an image, by falling probability; of equal ones, the lower class number first."""
        logits = prediction["logits"].detach().float().cpu()
        order = logits.sort(descending=True, stable=True).indices[:COUNT]
        scores = logits.softmax(dim=0)[order].tolist()
        return [
            {
                "image_id": info.image_id,
                "category_id": self.classes[k]["id"],
                "name": self.classes[k]["name"],
                "score": p,
            }
            for k, p in zip(order.tolist(), scores, strict=True)
        ]

    def draw(self, image: Image.Image, result: Results, *, score_threshold: float | None = 0.5) -> Image.Image:
        """The names of classes and their probabilities: those that are sure enough, at least the surest; None: all five."""
        least = 0.0 if score_threshold is None else score_threshold
        kept = [e for place, e in enumerate(result) if place == 0 or e.get("score", 1.0) >= least]
        return draw_lines(image, [(_words(entry), entry["category_id"] + 1) for entry in kept])

    def describe(self, result: Results, *, score_threshold: float = 0.5) -> str:
        """The surest class, or the five where it is not sure enough."""
        sure = bool(result) and result[0]["score"] >= score_threshold
        return ", ".join(map(_words, result[:1] if sure else result))

    def to_table(self, results: Sequence[tuple[ImageInfo, Results]]) -> pa.Table:
        """A row for each of the five surest classes of an image."""
        rows = [{**entry, "file_name": info.file_name} for info, found in results for entry in found]
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def from_table(self, table: pa.Table, info: ImageInfo) -> Results:
        """The entries of an image."""
        return table.filter(pc.field("image_id") == info.image_id).drop_columns(["file_name"]).to_pylist()

    def _sample(self, image: Tensor, target: Target | None, info: ImageInfo) -> Sample:
        return Sample(image=normalise(image, self.wanted.mean, self.wanted.std), target=target, info=info)


def _words(entry: Mapping[str, Any]) -> str:
    """`circle 0.93`, or `circle` of a truth."""
    return f"{entry['name']} {entry['score']:.2f}" if "score" in entry else entry["name"]
