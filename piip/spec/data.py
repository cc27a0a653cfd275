"""Data sets, one class a kind of data. Where the files are is not in the spec (see piip/data)."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, TypeAdapter, model_validator

from piip.contracts import Score
from piip.spec.base import Added
from piip.spec.detection import CocoSpec
from piip.spec.formats import CityscapesSpec, CrowdHumanSpec, KeypointsSpec, LvisSpec, OpenImagesSpec, VocSpec, YoloSpec
from piip.spec.places import DataName, DataSpec, Places

RAND_AUGMENT = r"^rand-m\d+(\.\d+)?(-n\d+)?(-mstd\d+(\.\d+)?)?-inc1$"


class Ade20kSpec(DataSpec):
    """Semantic segmentation: images, and a map of class numbers for each (ADE20K's layout, or a user's own two folders)."""

    task: ClassVar[str] = "segmentation"
    holds: ClassVar[str] = "label maps, a PNG for each image, named as it, the number of a class in every pixel"
    scores: ClassVar[tuple[Score, ...]] = (Score("ade20k/miou", "mIoU"), Score("ade20k/acc", "pixel acc"))
    places: ClassVar[dict[str, Places]] = {
        "ade20k": Places("ade20k/annotations/{part}", "ade20k/images/{part}", "ade20k/objectInfo150.txt"),
        "demo": Places("demo/ade20k/annotations/{part}", "demo/ade20k/images/{part}", "demo/ade20k/classes.txt"),
    }

    kind: Literal["ade20k"] = "ade20k"
    name: DataName = "ade20k"
    """`ade20k` (under PIIP_DATA), `demo` (made under PIIP_HOME); any other: what you call your own files."""
    reduce_zero_label: bool = True
    """0 in a map is what belongs to no class and is ignored; classes count from 1. False: classes count from 0."""
    ignore_value: int = Field(default=255, ge=0, le=65535)
    """Pixels of this value are neither learned nor scored."""
    train_ratio: tuple[float, float] = (0.5, 2.0)
    """Training resizes by a factor drawn from here, times that of evaluation; then it cuts out a square of `resolution`."""
    crop_class_share: float = Field(default=0.75, gt=0, le=1)
    """A cut is drawn anew (ten times at most) while one class covers more of it than this."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip in training."""
    photometric: bool = True
    """Brightness, contrast, saturation and hue vary in training."""
    pad_multiple: int = Field(default=1, gt=0)
    """In evaluation images are zero padded, right and bottom, to a multiple of this: 1, or one of 32."""
    broken_images: Literal["refuse", "skip"] = "refuse"
    """What training does with an image or a map that cannot be used."""

    def reading(self, classes: Sequence[Mapping[str, Any]]) -> str:
        """Which numbers of the maps are classes: `0 (other) to 13 (star)`, and which are ignored."""
        first, last = classes[0], classes[-1]
        ignored = ["0", str(self.ignore_value)] if self.reduce_zero_label else [str(self.ignore_value)]
        zero = "" if self.reduce_zero_label else ": 0 is a class, too (--set data.reduce_zero_label=true ignores it)"
        return (
            f"label maps: numbers {first['id']} ({first['name']}) to {last['id']} ({last['name']}) are the {len(classes)} classes, "
            f"{' and '.join(dict.fromkeys(ignored))} ignored{zero}"
        )

    @model_validator(mode="after")
    def _draws_are_possible(self) -> Self:
        if not 0 < self.train_ratio[0] <= self.train_ratio[1] <= 10:
            raise ValueError(
                f"train_ratio is drawn from a range, 0 < least <= most <= 10, got {list(self.train_ratio)}"
            )
        if self.pad_multiple > 1 and self.pad_multiple % 32:
            raise ValueError(
                f"pad_multiple is 1 or a multiple of 32, the coarsest map's stride, got {self.pad_multiple}"
            )
        return self

    def largest_input(self, resolution: int) -> tuple[int, int]:
        """Height and width of what a network is trained on."""
        return resolution, resolution


class ImageNetSpec(DataSpec):
    """Image classification: a folder of images for each class (ImageNet's layout, the demo's, a user's own)."""

    task: ClassVar[str] = "classification"
    holds: ClassVar[str] = "a folder for each class with its images: FOLDER/<class>/*.jpg"
    scores: ClassVar[tuple[Score, ...]] = (Score("imagenet/top1", "top-1"), Score("imagenet/top5", "top-5"))
    places: ClassVar[dict[str, Places]] = {
        "imagenet": Places("imagenet/{split}", "imagenet/{split}"),
        "demo": Places("demo/imagenet/{split}", "demo/imagenet/{split}"),
    }

    kind: Literal["imagenet"] = "imagenet"
    name: DataName = "imagenet"
    """`imagenet` (under PIIP_DATA), `demo` (made under PIIP_HOME); any other: what you call your own files."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    crop_ratio: float = Field(default=1.0, gt=0, le=1)
    """Evaluation resizes the short side to resolution / crop_ratio and cuts out the middle."""
    train_scale: tuple[float, float] = (0.08, 1.0)
    """Training cuts out a part of this share of the area (RandomResizedCrop)."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip in training."""
    rand_augment: Annotated[str, Field(pattern=RAND_AUGMENT)] | None = "rand-m9-mstd0.5-inc1"
    """RandAugment in timm's words: magnitude (of 10), number of operations, deviation of the magnitude; None: none."""
    mixup: float = Field(default=0.8, ge=0)
    """Alpha of mixup; 0: none."""
    cutmix: float = Field(default=1.0, ge=0)
    """Alpha of CutMix; 0: none. With both, each batch takes one of the two by even chances."""
    erasing: Annotated[float, Added(0.0)] = Field(default=0.0, ge=0, le=1)
    """Probability that a rectangle of a training image is replaced by noise (random erasing)."""
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing."""
    broken_images: Literal["refuse", "skip"] = "refuse"
    """What training does with an image that cannot be decoded."""

    @model_validator(mode="after")
    def _parts_are_drawn_from_a_range(self) -> Self:
        if not 0 < self.train_scale[0] <= self.train_scale[1] <= 1:
            raise ValueError(f"train_scale is drawn from a range, 0 < least <= most <= 1, got {list(self.train_scale)}")
        return self

    def largest_input(self, resolution: int) -> tuple[int, int]:
        """Height and width of all inputs."""
        return resolution, resolution


Data = Annotated[
    CocoSpec | Ade20kSpec | ImageNetSpec | YoloSpec | VocSpec | LvisSpec | CrowdHumanSpec | OpenImagesSpec | CityscapesSpec | KeypointsSpec,
    Field(discriminator="kind"),
]  # fmt: skip


KINDS: tuple[type[Any], ...] = get_args(get_args(Data)[0])
"""The class of every kind of data."""
Kind = Literal[
    "detection", "segmentation", "classification",
    "coco", "ade20k", "imagenet", "yolo", "voc", "lvis", "crowdhuman", "openimages", "cityscapes", "keypoints",
]  # fmt: skip
"""What people call their data: a task, which means the first kind of data that has it, or a kind."""


def named_kind(kind: str, name: str, **fields: Any) -> Data:
    """A spec of this kind of data, called `name`."""
    return TypeAdapter(Data).validate_python({"kind": kind, "name": name, **fields})


def of_kind(data: Data, kind: str) -> Data:
    """Data of another kind with the same task, prepared in the same way; called as that kind's own.

    Raises:
        ValueError: The task is another.
    """
    other = kinds_called(kind)[0]
    chosen = next(spec for spec in KINDS if spec.model_fields["kind"].default == other)
    if data.kind == other:
        return data
    if chosen.task != data.task:
        raise ValueError(f"--kind {kind} is {chosen.task}, and the row is for {words_for(data)}")
    shared = {name for name in chosen.model_fields if name in type(data).model_fields} - {"kind", "name"}
    return named_kind(other, chosen.model_fields["name"].default, **data.model_dump(include=shared))


def kinds_called(word: str) -> list[str]:
    """The kinds of data that a word names: a kind (`ade20k`) itself, a task (`segmentation`) all that have it."""
    known = {kind.model_fields["kind"].default: kind for kind in KINDS}
    return [word] if word in known else [kind for kind, spec in known.items() if spec.task == word]


def kinds_known_by(names: Iterable[str]) -> list[str]:
    """The kinds of data that have files or folders of such names."""
    there = set(names)
    known = {kind.model_fields["kind"].default: kind.known_by for kind in KINDS}
    return [kind for kind, marks in known.items() if any(fnmatchcase(name, mark) for name in there for mark in marks)]


def kinds_of_folders() -> list[str]:
    """The kinds of data whose annotations may be a folder."""
    places = {kind.model_fields["kind"].default: next(iter(kind.places.values())) for kind in KINDS}
    return [kind for kind, place in places.items() if not place.refuses(folder=True)]


def words_for(data: Data) -> str:
    """A kind of data for people, task first: `segmentation (ade20k)`."""
    return f"{data.task} ({data.kind})"
