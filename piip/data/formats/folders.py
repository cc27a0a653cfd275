"""Image classification from class folders: ImageNet's layout, the demo's, a user's own."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image
from torch import Tensor

from piip.contracts import Input
from piip.data.drawing import draw_lines
from piip.data.formats.folder_listing import listed
from piip.data.images import read_image
from piip.data.samples import Batch, ImageInfo, Sample, Target
from piip.data.sources import DataError, Source
from piip.data.transforms import classification as transforms
from piip.data.transforms.detection import normalise
from piip.metrics.topk import TopK
from piip.spec import ImageNetSpec

log = logging.getLogger(__name__)

Results = list[dict[str, Any]]
"""Of one image, its five surest classes, the surest first: image_id, category_id, name, score (probability, 0..1)."""

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


class FolderDataset(FolderFormat):
    """The images below a folder of class folders. Names of classes are those of the folders; labels count from 0 in their order.

    Heights and widths are not known before an image is decoded (0 in `infos`).

    Args:
        source: `annotations` is the folder of class folders; `images` is the same one.
        spec: How images are prepared, and what happens to broken ones.
        wanted: Side of all inputs in pixels, mean and std.
        training: Targets and augmentation, or neither.
        max_images: So many only: the first of every class, the second of every class, ..

    Raises:
        DataError: No classes, or one without images.
    """

    eval_batch = 16

    def __init__(
        self, source: Source, spec: ImageNetSpec, wanted: Input, *, training: bool, max_images: int | None = None
    ):
        self.source, self.training = source, training
        self.broken_images: Literal["refuse", "skip"] = spec.broken_images
        listing = listed(source.annotations)
        super().__init__(spec, wanted, [{"id": k, "name": name} for k, name in enumerate(listing.classes)])
        files = listing.files[:max_images]
        self.labels = [label for label, _ in files]
        self.infos = [ImageInfo(number, name, 0, 0) for number, (_, name) in enumerate(files, start=1)]
        self.broken: dict[str, str] = {}
        """Images this process could not read, by file name: why."""
        self._policy = transforms.Policy.of(spec.rand_augment) if spec.rand_augment else None
        self._digest: str | None = None

    def __len__(self) -> int:
        return len(self.infos)

    @property
    def digest(self) -> str:
        """Sixteen hex digits of the names, with their class folders, and of the sizes in bytes of the image files."""
        if self._digest is None:
            content = hashlib.sha256()
            for info in self.infos:
                content.update(f"{info.file_name}\0{self._path(info).stat().st_size}\0".encode())
            self._digest = content.hexdigest()[:16]
        return self._digest

    def sample(self, index: int, seed: int) -> Sample:
        """The image at `index` with the augmentation that (`index`, `seed`) draws.

        Where it cannot be decoded and the spec says `skip`, training gets the next one that can be, so that epochs keep their
        length, and evaluation an error of its own (see EvalLoader).
        """
        for offset in range(len(self)):
            at = (index + offset) % len(self)
            try:
                image = read_image(self._path(self.infos[at]))
            except DataError as error:
                if self.spec.broken_images == "refuse" or not self.training:
                    raise
                self.note_broken(at, error)
                continue
            info = replace(self.infos[at], height=image.shape[1], width=image.shape[2])
            return self._augmented(image, at, info, seed, index) if self.training else self.prepare(image, info)
        raise DataError(f"{self.source.images}: none of {len(self)} images can be decoded")

    def image_error(self, index: int) -> DataError | None:
        """Why the image at `index` cannot be used; None where it can."""
        try:
            read_image(self._path(self.infos[index]))
        except DataError as error:
            return error
        return None

    def note_broken(self, index: int, error: DataError) -> None:
        """Counts an image that is skipped; the first time it says so."""
        name = self.infos[index].file_name
        if name not in self.broken:
            log.warning("skipped: %s", error)
        self.broken[name] = str(error)

    def metric(self) -> TopK:
        """Top-1 and top-5 over the images of this split."""
        return TopK(
            {info.image_id: label for info, label in zip(self.infos, self.labels, strict=True)}, len(self.classes)
        )

    def truth(self, index: int) -> Results:
        """The class of the image at `index`."""
        category = self.classes[self.labels[index]]
        return [{"image_id": self.infos[index].image_id, "category_id": category["id"], "name": category["name"]}]

    def examples(self, count: int) -> list[int]:
        """The first images: of as many classes as there are."""
        return list(range(min(count, len(self))))

    def _augmented(self, image: Tensor, at: int, info: ImageInfo, seed: int, index: int) -> Sample:
        rng, spec, side = np.random.default_rng([seed, index]), self.spec, self.wanted.resolution
        box = transforms.random_crop_of(info.height, info.width, spec.train_scale, rng)
        image = transforms.crop(image, box, side, spec.interpolation)
        if rng.random() < spec.flip:
            image = image.flip(-1)
        if self._policy:
            image = transforms.rand_augment(image, self._policy, self.wanted.mean, rng)
        probabilities = torch.full((len(self.classes),), spec.smoothing / len(self.classes))
        probabilities[self.labels[at]] += 1 - spec.smoothing
        return self._sample(image, {"probabilities": probabilities}, info)

    def _path(self, info: ImageInfo) -> Path:
        return self.source.images / info.file_name


def _words(entry: Mapping[str, Any]) -> str:
    """`circle 0.93`, or `circle` of a truth."""
    return f"{entry['name']} {entry['score']:.2f}" if "score" in entry else entry["name"]
