"""What everybody may ask of a backbone, whatever its kind."""

import re
from collections.abc import Sequence
from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field

from piip.contracts import Input
from piip.spec.base import Spec

MIN_RESOLUTION = 32
"""Pixels: one cell of the coarsest map (stride 32); the largest patches, 16 pixels, then fit too."""

MAX_RESOLUTION = 16_384
"""Pixels: a square image of this side is the largest that is read (piip/data/limits.py), with some to spare."""

_Level = Annotated[float, Field(ge=0, le=255)]
_Spread = Annotated[float, Field(gt=0, le=255)]
Colour = tuple[_Level, _Level, _Level]
Spread = tuple[_Spread, _Spread, _Spread]
"""RGB, in 0..255; a spread divides."""


class Seen(NamedTuple):
    """A network and the image size it sees."""

    arch: str
    """timm name, with its weights' tag."""
    resolution: int
    pretrained: bool


class BackboneSpec(Spec):
    """What everybody may ask of a backbone without knowing its kind; a kind adds its fields and what differs."""

    samples: ClassVar[bool] = False
    """Whether it reads maps at places that it learns, which kernels of ours compute (`speed.kernel`)."""
    shares_statistics: ClassVar[bool] = False
    """Whether its BatchNorms count the images of all workers, where there are GPUs (SyncBatchNorm), as heads' do."""

    @property
    def networks(self) -> Sequence[Seen]:
        """Its networks, high to low resolution."""
        raise TypeError(f"{type(self).__name__} does not say what its networks are")

    @property
    def files(self) -> dict[str, str]:
        """Files of weights that it starts from: field -> path or public name."""
        return {}

    @property
    def row_name(self) -> str:
        """The middle of a row's name: `resnet18_256`."""
        seen = self.networks[0]
        return f"{seen.arch.split('.')[0]}_{seen.resolution}"

    @property
    def title(self) -> str:
        """The name that people read in tables, without resolutions: `ResNet-18`."""
        first, *_ = self.networks
        return re.sub(r"^resne(x?)t(\d+)", r"ResNe\1t-\2", first.arch.split(".")[0])

    @property
    def words(self) -> str:
        """What it is, for who reads a list, whatever its sizes."""
        return "one network, which sees one image size"

    @property
    def start(self) -> str:
        """What its weights are before training, in words: the first thing a fair comparison asks."""
        # a timm name's tag is the data its weights were trained on: pico_tiny.glyphs
        tags = {seen.arch.partition(".")[2] if seen.pretrained else "" for seen in self.networks}
        return "; ".join(f"branches pretrained on {tag}" if tag else "from scratch" for tag in sorted(tags))


class SingleSpec(BackboneSpec):
    """One network of a name, which sees one image size."""

    arch: str
    """timm name, e.g. `resnet18`."""
    resolution: int = Field(ge=MIN_RESOLUTION, le=MAX_RESOLUTION)
    """Long side of the input in pixels."""
    pretrained: bool = False
    mean: Colour = (127.5, 127.5, 127.5)
    std: Spread = (127.5, 127.5, 127.5)
    """RGB, in 0..255."""

    @property
    def networks(self) -> tuple[Seen, ...]:
        """Itself."""
        return (Seen(self.arch, self.resolution, self.pretrained),)

    @property
    def input(self) -> Input:
        """What data sets prepare images for."""
        return Input(self.resolution, self.mean, self.std)
