"""How large an image, and which part of it, training sees: the published detection recipes. The draws are in piip/data/transforms."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from piip.spec.base import Spec

Pixels = Annotated[int, Field(gt=0, le=20_000)]
Part = tuple[int, int, int, int]
"""Top, left, height and width of a part of an image, in the file's pixels."""
SHORT_SIDES = tuple(range(480, 801, 32))
"""Eleven, of DETR and all that follow it."""


class RecipeSpec(Spec):
    """What all recipes say of themselves."""

    square: ClassVar[bool] = False
    """Whether every batch is padded to the square that `largest` says: the most that the long and the short side of what training sees
    may have, in pixels, where they would be `limits` without a recipe."""


class ScalesSpec(RecipeSpec):
    """Multi-scale training: the short side is drawn, the long one is limited (Mask R-CNN's 3x)."""

    kind: Literal["scales"] = "scales"
    short: tuple[Pixels, ...] = Field(default=(640, 672, 704, 736, 768, 800), min_length=1)
    """The lengths to choose from, rising."""
    between: bool = False
    """Any length from the first to the last of them, not only these."""
    long: Pixels = 1333

    @model_validator(mode="after")
    def _rises(self) -> Self:
        _check_rising("short", self.short)
        return self

    def largest(self, limits: tuple[int, int]) -> tuple[int, int]:
        """The last of the short sides, the limit of the long one."""
        del limits
        return self.long, min(self.short[-1], self.long)


class CropsSpec(RecipeSpec):
    """DETR's multi-scale training, as DINO, PIIP's "ms" configurations and InternImage's 3x have it.

    One time in two the image is resized to a short side of `short`; else to one of `first_short`, then a part of it is cut out whose
    sides are drawn from `crop`, then that is resized as the others. Pixels are resampled once, from the file's to the last size.
    """

    kind: Literal["crops"] = "crops"
    short: tuple[Pixels, ...] = Field(default=SHORT_SIDES, min_length=1)
    long: Pixels = 1333
    """The long side's limit whenever the image is resized."""
    first_short: tuple[Pixels, ...] = Field(default=(400, 500, 600), min_length=1)
    first_long: Pixels | None = None
    """Its limit before the cut; None: `long`."""
    crop: tuple[Pixels, Pixels] = (384, 600)
    """Least and most pixels of either side of the cut."""
    last_crop: Pixels | None = None
    """At last a part of at most this side is cut out."""
    empty_crops: bool = True
    """Whether a cut may be without objects, where the image has some; else it is drawn anew, and left out after `CUTS_TRIED` times."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        for name in ("short", "first_short", "crop"):
            _check_rising(name, getattr(self, name))
        return self

    def times(self, factor: float) -> Self:
        """The recipe with all its lengths `factor` times as long, rounded down."""
        lengths = self.model_dump(exclude={"kind", "empty_crops"}, exclude_none=True)
        longer = {k: [int(v * factor) for v in side] if isinstance(side, tuple) else int(side * factor)
                  for k, side in lengths.items()}  # fmt: skip
        return self.override(longer)

    def largest(self, limits: tuple[int, int]) -> tuple[int, int]:
        """A square: parts of landscape images may be higher than wide, and share a batch with others."""
        del limits
        side = self.long if self.last_crop is None else min(self.last_crop, self.long)
        return side, side


class JitterSpec(RecipeSpec):
    """Large-scale jitter: the image is resized to `factors` of the square that it just fits in, then cut or padded to that square."""

    square: ClassVar[bool] = True

    kind: Literal["jitter"] = "jitter"
    side: Pixels = 1024
    factors: tuple[Annotated[float, Field(gt=0, le=10)], Annotated[float, Field(gt=0, le=10)]] = (0.1, 2.0)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        _check_rising("factors", self.factors)
        return self

    def largest(self, limits: tuple[int, int]) -> tuple[int, int]:
        """The square."""
        del limits
        return self.side, self.side


class SlicesSpec(RecipeSpec):
    """Sliced training: one of the overlapping parts that the image is cut into, resized as a whole image would be (SAHI, mmrotate).

    Drawn from the parts that objects are in, where there are some. An object that is cut stays while `kept_share` of its box is seen.
    """

    kind: Literal["slices"] = "slices"
    side: Pixels = 640
    """Of a part, in the file's pixels; smaller images are one part."""
    overlap: float = Field(default=0.2, ge=0, lt=1)
    """Of neighbours, as a share of the side."""
    kept_share: float = Field(default=0.3, ge=0, le=1)

    def largest(self, limits: tuple[int, int]) -> tuple[int, int]:
        """Parts are squares, so the short side's limit is that of both; smaller images may reach the limits."""
        return limits


Recipe = Annotated[ScalesSpec | CropsSpec | JitterSpec | SlicesSpec, Field(discriminator="kind")]


def parts_of(height: int, width: int, side: int, overlap: float) -> list[Part]:
    """Top, left, height and width of the overlapping parts, row by row, that cover an image; the last ones end where it ends."""
    rows, columns = (_starts(length, side, overlap) for length in (height, width))
    return [(top, left, min(side, height), min(side, width)) for top in rows for left in columns]


def _starts(length: int, side: int, overlap: float) -> list[int]:
    step = max(1, round(side * (1 - overlap)))
    return [*range(0, max(length - side, 0), step), max(length - side, 0)]


def _check_rising(name: str, lengths: tuple[float, ...]) -> None:
    if list(lengths) != sorted(lengths):
        raise ValueError(f"{name} rises, got {list(lengths)}")
