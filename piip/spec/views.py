"""Views that evaluation takes of an image: mirrored, at several scales, in overlapping slices; predictions of all are merged."""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from piip.contracts import Size
from piip.spec.base import DecidesNoNumber, Spec
from piip.spec.recipes import Part, Pixels, parts_of


class Seen(NamedTuple):
    """One view of an image."""

    part: Part
    scale: float
    """Factor on the limits of an image's sides."""
    mirrored: bool


class ViewsSpec(Spec):
    """Test-time augmentation and sliced inference: detections of several views of an image, merged class by class.

    An image's views are the whole of it at every scale, then its slices, each also mirrored where `flip` says so.
    """

    flip: bool = False
    """Each view is seen mirrored, too."""
    scales: tuple[Annotated[float, Field(gt=0, le=10)], ...] = Field(default=(1.0,), min_length=1)
    """Factors on the limits that the whole image is resized to."""
    slices: Pixels | None = None
    """Side in the file's pixels of overlapping slices, each resized as a whole image would be (SAHI); None: none."""
    overlap: float = Field(default=0.2, ge=0, lt=1)
    """Of neighbouring slices, as a share of the side."""
    whole: bool = True
    """Whether the whole image is seen beside its slices."""
    merge: Literal["nms", "soft_nms", "nmm"] | None = None
    """What becomes of detections of one class that overlap: all but the surest are left out (nms), become less sure (soft_nms), or are
    joined to the surest one of another view, their boxes and masks united (nmm). None: nmm where there are slices, else nms."""
    threshold: float = Field(default=0.5, gt=0, le=1)
    """Overlap from which on they do: intersection over union; for nmm over the smaller box, as a slice may have cut it."""
    image: Annotated[tuple[Pixels, Pixels] | None, DecidesNoNumber()] = None
    """Height and width of the images that cost is counted for, as only they say how many slices there are; None: one of no slices."""

    @model_validator(mode="after")
    def _sees_something(self) -> Self:
        if not self.whole and self.slices is None:
            raise ValueError("views without slices are of the whole image: whole=false needs slices")
        return self

    @classmethod
    def of_words(cls, words: Sequence[str]) -> Self:
        """As people type them: `flip`, `slices=640`, `scales=0.8,1,1.2`, `whole=false`, ..

        Raises:
            ValueError: A word is no field of views, or its value is refused.
        """
        said: dict[str, object] = {}
        for word in words:
            name, equals, value = word.partition("=")
            if name not in cls.model_fields or name == "image":
                known = ", ".join(field for field in cls.model_fields if field != "image")
                raise ValueError(f"no views are called {name[:60]!r}. There are: {known}")
            if not equals and name not in ("flip", "whole"):
                raise ValueError(f"{name} takes a value: {name}=..")
            said[name] = value.split(",") if name == "scales" else value if equals else True
        return cls().override(said)

    @property
    def merging(self) -> Literal["nms", "soft_nms", "nmm"]:
        """How."""
        return self.merge or ("nmm" if self.slices else "nms")

    @property
    def label(self) -> str:
        """A short name for figures of a split seen so: `flip-slices640`."""
        changed = self.model_dump(exclude_defaults=True, exclude={"image"})
        words = [name if value is True else f"{name}{_word(value)}" for name, value in changed.items()]
        return "-".join(words) or "plain"

    def of(self, height: int, width: int) -> list[Seen]:
        """The views of an image, the plain one first where it is among them."""
        all_ = (0, 0, height, width)
        slices = parts_of(height, width, self.slices, self.overlap) if self.slices else []
        slices = [part for part in slices if part != all_]
        whole = [Seen(all_, scale, False) for scale in self.scales] if self.whole or not slices else []
        seen = [*whole, *(Seen(part, 1.0, False) for part in slices)]
        return [
            view._replace(mirrored=mirrored) for view in seen for mirrored in ((False, True) if self.flip else (False,))
        ]

    def padded_sizes(self, limits: tuple[int, int], multiple: int) -> list[Size]:
        """What the network sees of the views of an image of `image`, or of the limits' proportions: heights and widths.

        Args:
            limits: Of the long and the short side in evaluation, in pixels.
            multiple: Sides are padded to one of it.
        """
        long, short = limits
        sizes = list[Size]()
        for (*_, height, width), scale, _ in self.of(*(self.image or (short, long))):
            factor = min(scale * long / max(height, width), scale * short / min(height, width))
            padded = [-(-max(1, int(side * factor + 0.5)) // multiple) * multiple for side in (height, width)]
            sizes.append((padded[0], padded[1]))
        return sizes


def _word(value: object) -> str:
    return (
        "_".join(f"{v:g}" for v in value)
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else f"{value}"
    )
