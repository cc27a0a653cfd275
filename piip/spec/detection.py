"""Detection data: how an image is prepared, the same for all formats, and COCO's (the others: spec/formats.py)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from piip.contracts import Score, Size
from piip.spec.base import Added
from piip.spec.places import DataName, DataSpec, Places
from piip.spec.recipes import Recipe, SlicesSpec
from piip.spec.views import ViewsSpec

Limits = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
"""The most that the long side and the short side may have, in pixels."""


def by_size(score: Score, sizes: Sequence[str] = ("small", "medium", "large")) -> tuple[Score, ...]:
    """A score of COCO's kind of objects of one size: below 32 x 32 pixels of the file, below 96 x 96, and from there on."""
    return tuple(replace(score, name=f"{score.name}_{size}", label=f"{score.label} {size}") for size in sizes)


BOX_AP, MASK_AP = Score("coco/box_ap", "box AP"), Score("coco/mask_ap", "mask AP")
KEYPOINT_AP = Score("coco/keypoint_ap", "keypoint AP")


class DetectionSpec(DataSpec):
    """What all detection data say: objects with boxes, and masks where the format has them."""

    task: ClassVar[str] = "detection"
    scores: ClassVar[tuple[Score, ...]] = (BOX_AP, MASK_AP)
    details: ClassVar[tuple[Score, ...]] = (*by_size(BOX_AP), *by_size(MASK_AP))

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
    views: Annotated[ViewsSpec | None, Added(None)] = None
    """Views that evaluation and `piip predict` take of an image; None: the image alone."""
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

    def view_sizes(self, resolution: int) -> list[Size]:
        """Height and width, padded, of the views that evaluation takes of an image of `views.image`, or of the limits' proportions."""
        limits = self.limits(resolution, training=False)
        return self.views.padded_sizes(limits, self.pad_multiple) if self.views else []

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


class CocoSpec(DetectionSpec):
    """COCO-format detection data: boxes and masks in one JSON a split."""

    holds: ClassVar[str] = "COCO-format JSON, with the lists images, annotations and categories"
    places: ClassVar[dict[str, Places]] = {
        "coco": Places("coco/annotations/instances_{split}2017.json", "coco/{split}2017"),
        "demo": Places("demo/annotations/instances_{split}.json", "demo/{split}"),
        "aerial": Places("aerial/annotations/instances_{split}.json", "aerial/{split}"),
    }

    kind: Literal["coco"] = "coco"
    name: DataName = "coco"
    """`coco` (under PIIP_DATA), `demo` and `aerial` (made under PIIP_HOME); any other: what you call your own files (on the command
    line)."""


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple
