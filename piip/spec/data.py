"""Data sets, one class a kind of data. Where the files are is not in the spec (see piip/data)."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from piip.contracts import Score
from piip.spec.base import Added
from piip.spec.places import DataName, DataSpec, Places
from piip.spec.recipes import Recipe, SlicesSpec

RAND_AUGMENT = r"^rand-m\d+(\.\d+)?(-n\d+)?(-mstd\d+(\.\d+)?)?-inc1$"


Limits = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
"""The most that the long side and the short side may have, in pixels."""


class CocoSpec(DataSpec):
    """COCO-format detection data: boxes and masks in one JSON a split."""

    task: ClassVar[str] = "detection"
    holds: ClassVar[str] = "COCO-format JSON, with the lists images, annotations and categories"
    scores: ClassVar[tuple[Score, ...]] = (Score("coco/box_ap", "box AP"), Score("coco/mask_ap", "mask AP"))
    places: ClassVar[dict[str, Places]] = {
        "coco": Places("coco/annotations/instances_{split}2017.json", "coco/{split}2017"),
        "demo": Places("demo/annotations/instances_{split}.json", "demo/{split}"),
    }

    kind: Literal["coco"] = "coco"
    name: DataName = "coco"
    """`coco` (under PIIP_DATA), `demo` (made under PIIP_HOME); any other: what you call your own files (on the command line)."""
    short_ratio: float = Field(default=800 / 1333, gt=0, le=1)
    """The short side is at most floor(resolution * short_ratio); the long side at most `resolution`."""
    scale: Annotated[Limits | None, Added(None)] = None
    """Limits of the long and the short side in pixels that take the place of those two: images larger than the first branch's
    resolution, which then is a name and a ratio (networks with ConvNeXt branches)."""
    eval_scale: Annotated[Limits | None, Added(None)] = None
    """The limits in evaluation, where they are others than in training (published scores of networks trained on crops)."""
    train_scales: tuple[Annotated[float, Field(gt=0, le=10)], ...] = Field(default=(1.0,), min_length=1)
    """Training draws one of these factors per image and multiplies both limits by it."""
    recipe: Annotated[Recipe | None, Added(None)] = None
    """How large an image, or which part of it, training sees; None: as large as the limits allow, times `train_scales`."""
    photometric: Annotated[bool, Added(False)] = False
    """Brightness, contrast, saturation and hue vary in training."""
    mosaic: Annotated[float, Added(0.0)] = Field(default=0.0, ge=0, le=1)
    """Probability that training sees four images in one square, of the long side's limit."""
    copy_paste: Annotated[float, Added(0.0)] = Field(default=0.0, ge=0, le=1)
    """Probability that some objects of another image are pasted upon what training sees, by their masks."""
    repeat_threshold: Annotated[float, Added(0.0)] = Field(default=0.0, ge=0, le=1)
    """LVIS's repeat factors: images of classes that fewer than this share of images have come several times an epoch; 0: none."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip in training."""
    pad_multiple: int = Field(default=224, gt=0)
    """Images are zero padded, right and bottom, to a multiple of this."""
    broken_images: Literal["refuse", "skip"] = "refuse"
    """What training does with an image that cannot be decoded."""

    def limits(self, resolution: int, *, training: bool) -> Limits:
        """What an image's long and short side are at most after resizing, in pixels."""
        in_training = self.scale or (resolution, math.floor(resolution * self.short_ratio))
        return in_training if training else self.eval_scale or in_training

    def largest_input(self, resolution: int) -> tuple[int, int]:
        """Height and width of the largest landscape image of training, padded: at the aspect limit and the largest of `train_scales`.

        Cost and a step's memory are counted of it. Evaluation, one image at a time and without gradients, takes less also at a
        larger `eval_scale`.
        """
        factor = max(1.0, *self.train_scales)
        limits = self.limits(resolution, training=True)
        long, short = self.recipe.largest(limits) if self.recipe else limits
        if self.mosaic:
            long = short = max(long, limits[0])
        if self.recipe is None or isinstance(self.recipe, SlicesSpec):
            long, short = (int(side * factor + 0.5) for side in (long, short))
        return _up(short, self.pad_multiple), _up(long, self.pad_multiple)

    def square(self, resolution: int) -> int:
        """Side in pixels of the square that every batch of training is padded to at least; 0: none."""
        recipe = self.recipe
        return recipe.largest(self.limits(resolution, training=True))[0] if recipe and recipe.square else 0

    @model_validator(mode="after")
    def _long_side_is_the_longer(self) -> Self:
        for name in ("scale", "eval_scale"):
            limits = getattr(self, name)
            if limits and limits[0] < limits[1]:
                raise ValueError(f"{name} is long side, then short side, in pixels, got {list(limits)}")
        return self

    @model_validator(mode="after")
    def _scales_are_drawn_once(self) -> Self:
        if self.recipe and not isinstance(self.recipe, SlicesSpec) and self.train_scales != (1.0,):
            raise ValueError(
                f"recipe {self.recipe.kind!r} draws sizes itself, train_scales {list(self.train_scales)} do, too. Leave one out"
            )
        return self


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
    CocoSpec | Ade20kSpec | ImageNetSpec, Field(discriminator="kind"),
]  # fmt: skip


def kinds_called(word: str) -> list[str]:
    """The kinds of data that a word names: a kind (`ade20k`) itself, a task (`segmentation`) all that have it."""
    known = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(Data)[0])}
    return [word] if word in known else [kind for kind, spec in known.items() if spec.task == word]


def words_for(data: Data) -> str:
    """A kind of data for people, task first: `segmentation (ade20k)`."""
    return f"{data.task} ({data.kind})"


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple
