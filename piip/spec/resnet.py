"""ResNet and ResNeXt as Detectron has them: the bodies that detectors were published with, and PIIP is compared with."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from piip.contracts import Input
from piip.spec.base import Spec
from piip.spec.networks import MAX_RESOLUTION, MIN_RESOLUTION, BackboneSpec, Colour, Seen, Spread

_Count = Annotated[int, Field(gt=0)]


class BottleneckSpec(Spec):
    """What a ResNet's blocks are made of."""

    channels: int = Field(default=64, gt=0)
    """Of the stem; blocks of the first level are four times as wide, and every next level's twice as wide as the one before."""
    groups: int = Field(default=1, gt=0)
    """Of the 3x3 convolutions: 32 or 64 in a ResNeXt."""
    width_per_group: int = Field(default=64, gt=0)
    """Channels of a group at the first level, where `channels` is 64."""
    stride_in: Literal["1x1", "3x3"] = "1x1"
    """The convolution of a level's first block that halves the map: the first one (MSRA's ResNet-50 and 101) or the second."""
    norm: Literal["affine", "group"] = "affine"
    """`affine`: a factor and a summand a channel, folded of BatchNorm's, that never learn. `group`: GroupNorm, which does."""
    norm_groups: int = Field(default=32, gt=0)
    """Of GroupNorm."""
    weights: str | None = None
    """File of its ImageNet pretraining, Detectron's `.pkl`, by path or public name (`R-50.pkl`); None starts from scratch."""

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        if self.norm == "group" and (self.channels % self.norm_groups or self.width_of(0) % self.norm_groups):
            raise ValueError(
                f"norm 'group' of {self.norm_groups} norm_groups does not divide {self.channels} channels of the stem and "
                f"{self.width_of(0)} inside the first level's blocks"
            )
        return self

    def width_of(self, level: int) -> int:
        """Channels inside a level's blocks; the levels are 0 to 3."""
        return int(self.channels * 2**level * self.width_per_group / 64) * self.groups


class ResNetSpec(BottleneckSpec, BackboneSpec):
    """ResNet (arXiv 1512.03385) and ResNeXt (1611.05431), maps at strides 4, 8, 16, 32."""

    kind: Literal["resnet"] = "resnet"
    resolution: int = Field(ge=MIN_RESOLUTION, le=MAX_RESOLUTION)
    """Long side of the input in pixels."""
    depths: tuple[_Count, _Count, _Count, _Count] = (3, 4, 6, 3)
    """Blocks of the four levels, res2 to res5."""
    res5_dilation: Literal[1, 2] = 1
    """2: the last level keeps stride 16, and its 3x3 convolutions skip every other pixel."""
    freeze_at: int = Field(default=0, ge=0, le=5)
    """Parts that do not learn: 1 the stem, 2 the stem and res2 (published, beginning from ImageNet), up to 5 all of it."""
    mean: Colour = (122.7717, 115.9465, 102.9801)
    std: Spread = (1.0, 1.0, 1.0)
    """RGB, in 0..255; Detectron's files have blue first, which is turned when they are read."""

    @property
    def name(self) -> str:
        """`resnet50`, `resnext101_32x8d`, `resnet50_gn`."""
        grouped = f"next{self._depth}_{self.groups}x{self.width_per_group}d" if self.groups > 1 else f"net{self._depth}"
        return f"res{grouped}{'_gn' if self.norm == 'group' else ''}"

    @property
    def networks(self) -> tuple[Seen, ...]:
        """Itself."""
        return (Seen(self.name, self.resolution, self.weights is not None),)

    @property
    def title(self) -> str:
        """`ResNet-50`, `ResNeXt-101-32x8d`, `ResNet-50-GN`."""
        grouped = (
            f"NeXt-{self._depth}-{self.groups}x{self.width_per_group}d" if self.groups > 1 else f"Net-{self._depth}"
        )
        return f"Res{grouped}{'-GN' if self.norm == 'group' else ''}"

    @property
    def start(self) -> str:
        """`pretrained (R-50.pkl)`."""
        return f"pretrained ({self.weights})" if self.weights else "from scratch"

    @property
    def files(self) -> dict[str, str]:
        """Its pretraining."""
        return {"weights": self.weights} if self.weights else {}

    @property
    def input(self) -> Input:
        """What data sets prepare images for."""
        return Input(self.resolution, self.mean, self.std)

    @property
    def _depth(self) -> int:
        return 3 * sum(self.depths) + 2
