"""MPViT: the multi-path Vision Transformer that PIIP is compared with."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from piip.contracts import Input
from piip.spec.base import DecidesNoNumber
from piip.spec.networks import MAX_RESOLUTION, MIN_RESOLUTION, BackboneSpec, Colour, Seen, Spread

_Count = Annotated[int, Field(gt=0)]
_Stages = tuple[_Count, _Count, _Count, _Count]
HEADS = 8
"""Of every attention."""
NEIGHBOURHOODS = ((3, 2), (5, 3), (7, 3))
"""Side of a convolution of values, and how many heads' values it sees."""


class MPViTSpec(BackboneSpec):
    """MPViT (arXiv 2112.11010), maps at strides 4, 8, 16, 32; its sizes are in presets/families.py."""

    shares_statistics = True

    kind: Literal["mpvit"] = "mpvit"
    label: Annotated[str, DecidesNoNumber()] = ""
    """Letters for people, e.g. `t`; not part of the digest."""
    resolution: int = Field(ge=MIN_RESOLUTION, le=MAX_RESOLUTION)
    """Long side of the input in pixels."""
    channels: _Stages = (64, 96, 176, 216)
    """Inside the four stages. What leaves a stage has as many as the next one."""
    paths: _Stages = (2, 3, 3, 3)
    """Transformers side by side in a stage, on patches of rising size."""
    depths: _Stages = (1, 2, 4, 1)
    """Layers of each transformer of a stage."""
    mlp_ratio: float = Field(default=2.0, gt=0)
    """2 in T, as its code and its pretraining have it, 4 in all others; T's printed cost is that of 4."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Of the last layer; it grows from 0 over the layers of all stages, the same on all paths."""
    checkpointing: bool = False
    """Recompute the layers' activations in the backward pass: less memory, about a third more time."""
    mean: Colour = (123.675, 116.28, 103.53)
    std: Spread = (58.395, 57.12, 57.375)
    """RGB, in 0..255: ImageNet's."""

    @property
    def networks(self) -> tuple[Seen, ...]:
        """Itself, from scratch: its public pretraining is a file that a run may start from (`model.weights`)."""
        return (Seen(f"mpvit_{self.label or self.channels[0]}", self.resolution, False),)

    @property
    def title(self) -> str:
        """`MPViT-T`."""
        return f"MPViT-{self.label.upper() or self.channels[0]}"

    @property
    def input(self) -> Input:
        """What data sets prepare images for."""
        return Input(self.resolution, self.mean, self.std)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Of the four maps."""
        return (*self.channels[1:], self.channels[-1])

    def drop_paths(self) -> list[list[float]]:
        """Rate of every layer, stage by stage."""
        last = max(sum(self.depths) - 1, 1)
        before = [sum(self.depths[:stage]) for stage in range(4)]
        return [
            [self.drop_path * (first + layer) / last for layer in range(depth)]
            for first, depth in zip(before, self.depths, strict=True)
        ]

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> Self:
        if any(width % HEADS for width in self.channels):
            raise ValueError(f"channels {list(self.channels)} are to be multiples of the {HEADS} heads of an attention")
        return self
