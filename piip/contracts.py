"""What the parts promise each other, a screen each. Imports no torch: specs and planning read it too.

Types choose code by `match`, in one place each: `models.build_model`, `data.open_dataset`. Heads and backbones meet in `Maps` and
`Tokens`, data sets and tables in `Score`, data sets and networks in `Input`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image
    from torch import Tensor

    from piip.data.samples import Batch, ImageInfo, Sample
    from piip.data.sources import DataError, Source

    Seen = tuple[dict[str, Tensor], ImageInfo]

Size = tuple[int, int]
"""Height and width in pixels."""

IGNORE = 2**16 - 1
"""The label of pixels that are neither learned nor scored."""


@dataclass(frozen=True)
class Score:
    """A number of a data set that people compare; the first of a data set's scores ranks its runs."""

    name: str
    """As logged: `<task>/<name>`; all there are stand in piip/spec/data.py."""
    label: str
    """For people: in tables, on axes, in sentences."""
    mode: Literal["max", "min"] = "max"

    @property
    def key(self) -> str:
        """The name without its task; what `PaperResult` calls it."""
        return self.name.rpartition("/")[2]

    def better(self, value: float, other: float) -> bool:
        """Whether `value` ranks above `other`."""
        return value > other if self.mode == "max" else value < other


@dataclass(frozen=True)
class Maps:
    """A head's wish: feature maps at these strides, high to low resolution."""

    strides: tuple[int, ...] = (4, 8, 16, 32)


@dataclass(frozen=True)
class Tokens:
    """A head's wish: the tokens of every branch, and its class token where it has one."""

    num_classes: int | None = None
    """Classes of the pretrained classifier (a final norm and a linear layer) that every branch keeps for the head; None keeps none."""


Wish = Maps | Tokens


@dataclass(frozen=True)
class Input:
    """What a network wants of an image; data sets prepare it so."""

    resolution: int
    """Side in pixels: the long side's limit, the crop of a fixed size."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """RGB, in 0..255."""
    masks: bool = True
    """Whether the head learns the masks of objects: training data without are refused; else none are made."""
    keypoints: int = 0
    """How many keypoints of an object the head learns: data of other numbers are refused; 0: none are made."""


class Backbone(Protocol):
    """Image -> maps, high to low resolution."""

    strides: Sequence[int]
    out_channels: Sequence[int]
    """Channels of each of the maps that the head asked for."""

    def __call__(self, images: "Tensor") -> "list[Tensor]":
        """(B, 3, H, W) -> maps (B, out_channels[i], H / strides[i], W / strides[i])."""
        ...

    def layer_ids(self, *, exact: bool = False) -> dict[str, float]:
        """Parameter name -> distance from the end, for layer-wise decay."""
        ...

    def part_of(self, name: str) -> str:
        """The row of the cost table that a parameter or module belongs to."""
        ...


class Head(Protocol):
    """Maps or tokens -> losses in training, predictions in evaluation. What it `wants` is said by its spec."""

    def __call__(
        self, features: "Any", sizes: Sequence[Size], targets: "Sequence[Mapping[str, Tensor]] | None" = None
    ) -> "dict[str, Tensor] | list[dict[str, Tensor]]":
        """Features as wished -> weighted 0-d losses with always the same keys `loss_<part>`, or one prediction an image.

        Args:
            features: Maps, or tokens of every branch.
            sizes: Height and width of every image's content in the padded input.
            targets: One an image, in training.
        """
        ...

    def probe(self, features: "Any") -> "Mapping[str, Callable[[], Sequence[Tensor]]]":
        """Part -> a call that computes all of it at its largest, in order; the one source for cost and memory.

        In training mode the calls see as much as losses are computed of, in evaluation what an image has at most. They give the
        tensors that losses read, and nothing where a later part reads what they computed.
        """
        ...


class Metric(Protocol):
    """Results of images -> named numbers. States of several workers merge into one."""

    def update(self, result: Any, info: "ImageInfo") -> None:
        """Take in what `Dataset.to_file` gave for one image; each image comes once."""
        ...

    def state(self) -> Any:
        """All that has been taken in, small and picklable: it travels between processes, masks and maps do not."""
        ...

    def merge(self, states: Sequence[Any]) -> None:
        """Take the place of the metrics whose states these are; the order of states and of images changes no bit."""
        ...

    def compute(self) -> dict[str, float]:
        """`<task>/<name>` -> number; images of the split that never came count as nothing found. Asking again changes nothing."""
        ...


@runtime_checkable
class PerClass(Protocol):
    """What a metric may have besides: its numbers of each class. They are kept with predictions."""

    def per_class(self) -> dict[int, dict[str, float]]:
        """The files' number of a class -> name -> number, of all that was taken in; a class is left out where nothing says anything."""
        ...


class Format(Protocol):
    """How a kind of data goes into a network, and what comes out goes back to files; needs no files itself."""

    spec: Any
    """What the data are, of the class that its kind of data has in piip/spec/data.py."""
    classes: list[dict[str, Any]]
    """{"id": the files' number, "name": ...} in order of label."""

    def prepare(self, image: "Tensor", info: "ImageInfo") -> "Sample":
        """A decoded image (3, H, W) uint8 as evaluation sees it: the one preprocessing of evaluation and predict."""
        ...

    def collate(self, samples: "Sequence[Sample]", seed: int = 0) -> "Batch":
        """Samples of one micro batch, padded to one shape; what mixes images (mixup) draws from `seed`."""
        ...

    def to_file(self, prediction: "Mapping[str, Tensor]", info: "ImageInfo") -> Any:
        """The result of an image: what the network said, in the file's own pixels and class numbers."""
        ...

    def draw(self, image: "Image.Image", result: Any, *, score_threshold: float | None = 0.5) -> "Image.Image":
        """A result, or a truth, over its image, with names.

        Args:
            image: In the file's pixels.
            result: Of `to_file`, `from_table` or `Dataset.truth`.
            score_threshold: What is less sure is left out, where results have scores; None chooses one that leaves something to see.
        """
        ...

    def describe(self, result: Any, *, score_threshold: float = 0.5) -> str:
        """A line without a full stop on what a result says, for who typed `predict`: `3 objects of 20 candidates`."""
        ...

    def to_table(self, results: "Sequence[tuple[ImageInfo, Any]]") -> "pa.Table":
        """Results of `to_file` as rows of a Parquet file, in their order; any number of rows an image, none too.

        The first columns are always `image_id` (int64) and `file_name` (string); a column `score` (float64) says how sure a row is,
        where results have that. Rows are plain values, as `to_pylist` and JSON take them: masks and maps as run lengths, no bytes.
        Always the same columns for the same kind of network, so that tables of several workers can be put together.
        """
        ...

    def from_table(self, table: "pa.Table", info: "ImageInfo") -> Any:
        """The result of one image back from a table; without rows of it: that of an image in which nothing was found."""
        ...


@runtime_checkable
class SeveralViews(Protocol):
    """What a format may have besides: an image is seen in several views, where `Batch.files` has it (piip/spec/views.py)."""

    def views(self, file: "Tensor", info: "ImageInfo") -> "Iterator[tuple[Any, Batch]]":
        """Views of an image (3, H, W) uint8 one after the other, each a batch of its own: images of other sizes would be padded."""
        ...

    def merged(self, seen: "Sequence[tuple[Any, Mapping[str, Tensor]]]", info: "ImageInfo") -> "Seen":
        """Predictions of these views as one, and the info that `to_file` takes with it."""
        ...


class Dataset(Format, Protocol):
    """A split: files -> samples."""

    source: "Source"
    training: bool
    infos: "list[ImageInfo]"
    broken_images: Literal["refuse", "skip"]
    eval_batch: int
    """Images that evaluation puts into a batch: 1 where they differ in size."""

    def __len__(self) -> int:
        """Images."""
        ...

    @property
    def digest(self) -> str:
        """Sixteen hex digits of all that decides what is learned or scored."""
        ...

    def sample(self, index: int, seed: int) -> "Sample":
        """The image at `index` with the augmentation that (`index`, `seed`) draws.

        Raises:
            DataError: The image cannot be used (under `skip` in training: none can).
        """
        ...

    def image_error(self, index: int) -> "DataError | None":
        """Why the image at `index` cannot be used; None where it can."""
        ...

    def note_broken(self, index: int, error: "DataError") -> None:
        """Counts an image that is skipped; the first time it says so."""
        ...

    def metric(self) -> Metric:
        """A fresh one for this split. Cheap: the truth it scores against is read once a data set, not once a metric."""
        ...

    def truth(self, index: int) -> Any:
        """What is right of the image at `index`, in a form that `draw` takes."""
        ...

    def examples(self, count: int) -> list[int]:
        """Indices of at most `count` images worth looking at: always the same ones, so that runs can be compared by eye."""
        ...
