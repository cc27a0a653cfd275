"""Forms of a two-stage detector: the maps it reads, and what its heads are made of."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from piip.spec.base import Spec
from piip.spec.resnet import BottleneckSpec

Strides = tuple[int, ...]
_FORMS: dict[str, tuple[Strides, Strides, Strides]] = {
    "fpn": ((4, 8, 16, 32), (4, 8, 16, 32, 64), (4, 8, 16, 32)),
    "fpn_p2": ((4, 8, 16, 32), (4,), (4,)),
    "fpn_p7": ((4, 8, 16, 32), (4, 8, 16, 32, 64, 128), (4, 8, 16, 32)),
    "c4": ((16,), (16,), (16,)),
    "c5": ((32,), (32,), (32,)),
    "c5_dilated": ((16,), (16,), (16,)),
}
"""Strides of the maps that the backbone gives, that proposals are made on and that boxes are cut from."""


class FormSpec(Spec):
    """mmdetection's, Detectron2's and torchvision's is the default; the others are Detectron's."""

    maps: Literal["fpn", "fpn_p2", "fpn_p7", "c4", "c5", "c5_dilated"] = "fpn"
    """`fpn`: a pyramid, its coarsest level for proposals only. `fpn_p2`: the pyramid's finest level alone. `fpn_p7`: two levels more,
    by convolutions of stride 2 (RetinaNet's). `c4`: the backbone's map at stride 16; boxes are looked at by a res5 of their own. `c5`:
    its map at stride 32, `c5_dilated`: the one at 16 of a ResNet whose res5 is dilated."""
    anchor_sides: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(32, 64, 128, 256, 512), min_length=1)
    """Of anchors on a single map (all but `fpn` and `fpn_p7`), in pixels; `anchor_scale` is a pyramid's."""
    norm: Literal["none", "group"] = "none"
    """Behind the convolutions of pyramid, boxes and masks: nothing, or GroupNorm of 32 groups, and then no biases."""
    box_convs: int = Field(default=0, ge=0)
    """Convolutions of `fpn_channels` in front of one linear layer; 0: two linear layers."""
    train_post_nms: int | None = Field(default=None, gt=0)
    """Proposals per image after NMS in training; None: as many as the dialect makes of `rpn_post_nms`."""
    res5: BottleneckSpec = BottleneckSpec()
    """Of `c4`: the blocks that look at boxes."""
    res5_blocks: int = Field(default=3, gt=0)

    @property
    def strides(self) -> Strides:
        """Of the maps that the backbone gives."""
        return _FORMS[self.maps][0]

    @property
    def proposal_strides(self) -> Strides:
        """Of the maps that proposals are made on."""
        return _FORMS[self.maps][1]

    @property
    def box_strides(self) -> Strides:
        """Of the maps that boxes are cut from."""
        return _FORMS[self.maps][2]

    @property
    def has_pyramid(self) -> bool:
        """Whether the backbone's maps become a pyramid."""
        return len(self.strides) > 1

    def scales(self, anchor_scale: float) -> tuple[float, ...]:
        """Anchors' sides in strides of the map they are on."""
        stride, *others = self.proposal_strides
        return (anchor_scale,) if others else tuple(side / stride for side in self.anchor_sides)

    @model_validator(mode="after")
    def _parts_are_there(self) -> Self:
        if self.maps == "c4" and (self.box_convs or self.norm != "none"):
            raise ValueError(
                f"maps 'c4' looks at boxes by res5: box_convs {self.box_convs} and norm {self.norm!r} are for the other forms"
            )
        return self
