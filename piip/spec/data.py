"""Data sets, and how an image is prepared. Where the files are is not in the spec (see piip/data)."""

from typing import Literal

from pydantic import Field

from piip.spec.base import Spec


class CocoSpec(Spec):
    """COCO-format detection data and how an image is prepared. Where the files are is not in the spec (see piip/data)."""

    kind: Literal["coco"] = "coco"
    name: str = "coco"
    """`coco` (under PIIP_DATA), `demo` (made under PIIP_HOME) or `custom` (paths given on the command line)."""
    short_ratio: float = Field(default=800 / 1333, gt=0, le=1)
    """The short side is at most floor(resolution * short_ratio); the long side at most `resolution`."""
    train_scales: tuple[float, ...] = (1.0,)
    """Training draws one of these factors per image and multiplies both limits by it."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip in training."""
    pad_multiple: int = Field(default=224, gt=0)
    """Images are zero padded, right and bottom, to a multiple of this."""
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    """RGB, in 0..255."""
    broken_images: Literal["refuse", "skip"] = "refuse"
    """What training does with an image that cannot be decoded."""
