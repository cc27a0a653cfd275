"""A folder of images, and how bright each is (piip/data/formats/toy.py)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
from piip.metrics.error import Error
from PIL import Image
from torch import Tensor

from piip.contracts import Input
from piip.data.images import read_image
from piip.data.samples import Batch, ImageInfo, Sample
from piip.data.sources import DataError, Source
from piip.data.transforms import detection as transforms
from piip.spec.data import ToyDataSpec


class ToyFormat:
    """Images squashed to a square; a result is a number."""

    def __init__(self, spec: ToyDataSpec, wanted: Input, classes: list[dict[str, Any]]) -> None:
        self.spec, self.wanted, self.classes = spec, wanted, classes

    def prepare(self, image: Tensor, info: ImageInfo) -> Sample:
        """Squashed and normalised."""
        square = transforms.resize_image(image, (self.wanted.resolution,) * 2)
        return Sample(transforms.normalise(square, self.wanted.mean, self.wanted.std), None, info)

    def collate(self, samples: Sequence[Sample], seed: int = 0) -> Batch:
        """All are of one size."""
        return Batch.of(samples, 1)

    def to_file(self, prediction: Mapping[str, Tensor], info: ImageInfo) -> float:
        """The number."""
        return float(prediction["brightness"])

    def draw(self, image: Image.Image, result: float, *, score_threshold: float | None = 0.5) -> Image.Image:
        """Nothing to draw over it."""
        return image

    def describe(self, result: float, *, score_threshold: float = 0.5) -> str:
        """In words."""
        return f"brightness {result:.2f}"

    def to_table(self, results: Sequence[tuple[ImageInfo, float]]) -> pa.Table:
        """A row an image."""
        rows = [{"image_id": i.image_id, "file_name": i.file_name, "brightness": r} for i, r in results]
        columns = [("image_id", pa.int64()), ("file_name", pa.string()), ("brightness", pa.float64())]
        return pa.Table.from_pylist(rows, schema=pa.schema(columns))

    def from_table(self, table: pa.Table, info: ImageInfo) -> float:
        """Back."""
        return next(r["brightness"] for r in table.to_pylist() if r["image_id"] == info.image_id)


class ToyDataset(ToyFormat):
    """All JPEGs of a folder."""

    def __init__(
        self, source: Source, spec: ToyDataSpec, wanted: Input, *, training: bool, max_images: int | None = None
    ) -> None:
        super().__init__(spec, wanted, [{"id": 0, "name": "brightness"}])
        self.source, self.training = source, training
        self.broken_images: Literal["refuse", "skip"] = "refuse"
        self.eval_batch = 1
        self.files = sorted(source.images.glob("*.jpg"))[:max_images]
        self.images = [read_image(file) for file in self.files]
        self.infos = [
            ImageInfo(i, file.name, *map(int, image.shape[1:]))
            for i, (file, image) in enumerate(zip(self.files, self.images, strict=True))
        ]
        self.digest = str(sum(file.stat().st_size for file in self.files))

    def __len__(self) -> int:
        return len(self.files)

    def sample(self, index: int, seed: int) -> Sample:
        """Without augmentation."""
        sample = self.prepare(self.images[index], self.infos[index])
        target = {"brightness": self.images[index].float().mean() / 255} if self.training else None
        return Sample(sample.image, target, sample.info)

    def image_error(self, index: int) -> DataError | None:
        """Read already."""
        return None

    def note_broken(self, index: int, error: DataError) -> None:
        """Never called: broken images are refused."""

    def metric(self) -> Error:
        """Against the images themselves."""
        return Error({i: self.truth(i) for i in range(len(self))})

    def truth(self, index: int) -> float:
        """How bright it is."""
        return float(self.images[index].float().mean() / 255)

    def examples(self, count: int) -> list[int]:
        """The first."""
        return list(range(min(count, len(self))))
