"""Heads: what a model is to say of an image."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from piip.contracts import Maps, Tokens, Wish
from piip.spec.base import Added, HeadSpec
from piip.spec.detectors import (
    CascadeMaskRCNNSpec,
    CascadeRCNNSpec,
    FasterRCNNSpec,
    KeypointRCNNSpec,
    MaskRCNNSpec,
    RetinaNetSpec,
)


class DINOSpec(HeadSpec):
    """DINO with four scales (arXiv 2203.03605) as in mmdetection: the backbone gives three maps, the head's neck makes a fourth of them."""

    samples: ClassVar[bool] = True

    kind: Literal["dino"] = "dino"
    num_classes: int = Field(default=80, gt=0)
    """Foreground classes."""
    num_queries: int = Field(default=900, gt=0)
    """Objects that the decoder looks for."""
    embed_dim: Annotated[int, Added(256)] = Field(default=256, gt=0)
    """Channels of everything inside."""
    num_heads: Annotated[int, Added(8)] = Field(default=8, gt=0)
    num_points: Annotated[int, Added(4)] = Field(default=4, gt=0)
    """Samples per head and level."""
    norm_groups: Annotated[int, Added(32)] = Field(default=32, gt=0)
    """Groups of the neck's GroupNorms."""
    encoder_layers: Annotated[int, Added(6)] = Field(default=6, gt=0)
    decoder_layers: Annotated[int, Added(6)] = Field(default=6, gt=0)
    ffn_dim: Annotated[int, Added(2048)] = Field(default=2048, gt=0)
    """Hidden channels of the layers' MLPs."""
    denoising_queries: Annotated[int, Added(100)] = Field(default=100, gt=0)
    """Noised objects an image that training has beside the queries, of good and of bad ones each: as many groups as fit, where a group
    holds every object of the batch's fullest image once; one at least."""
    label_noise: Annotated[float, Added(0.5)] = Field(default=0.5, ge=0, le=2)
    """Twice the probability that a noised object's label is drawn anew."""
    box_noise: Annotated[float, Added(1.0)] = Field(default=1.0, ge=0)
    """Half sides by which a good one's corners are moved at most; a bad one's by as much to twice as much."""
    max_detections: Annotated[int, Added(300)] = Field(default=300, gt=0)
    """The surest pairs of query and class an image; there is no NMS."""

    @property
    def wants(self) -> Wish:
        """What the backbone gives."""
        return Maps((8, 16, 32))

    @model_validator(mode="after")
    def _channels_divide(self) -> Self:
        for name, count in (("num_heads", self.num_heads), ("norm_groups", self.norm_groups), ("sines of a place", 4)):
            if self.embed_dim % count:
                raise ValueError(f"embed_dim {self.embed_dim} does not divide by {count} ({name})")
        return self


class UPerNetSpec(HeadSpec):
    """UperNet, a class for every pixel: mmsegmentation's `upernet_r50` at any width, in training with an auxiliary FCN head."""

    kind: Literal["upernet"] = "upernet"
    num_classes: int = Field(default=150, gt=0)
    channels: int = Field(default=1536, gt=0)
    """Channels of every map inside, the auxiliary head's too."""
    pool_scales: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(1, 2, 3, 6), min_length=1)
    """Sides of the grids on which pyramid pooling averages the coarsest map."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Probability that a whole channel is dropped in front of both classifiers."""
    aux_weight: float = Field(default=0.4, ge=0)
    """Weight of the auxiliary head's loss."""
    inference: Literal["slide", "whole"] = "slide"
    """`slide`: square crops of the image, each exactly `crop` wide, their logits averaged where they overlap; for networks with
    positions of one size. `whole`: the image at once."""
    crop: int | None = Field(default=None, gt=0)
    """Side in pixels; None: the network's resolution, which it is trained at."""
    stride: int | None = Field(default=None, gt=0)
    """Pixels from crop to crop; None: two thirds of a crop (341 of 512, as published)."""

    @property
    def wants(self) -> Wish:
        """What the backbone gives."""
        return Maps((4, 8, 16, 32))

    def window(self, resolution: int) -> tuple[int, int] | None:
        """Crop and stride in pixels of a network of this `resolution`; None where it sees images whole."""
        crop = self.crop or resolution
        return (crop, self.stride or max(1, crop * 2 // 3)) if self.inference == "slide" else None

    @model_validator(mode="after")
    def _crops_leave_no_gap(self) -> Self:
        if self.crop and self.stride and self.stride > self.crop:
            raise ValueError(
                f"stride {self.stride} leaves pixels between crops of {self.crop} that no crop sees; at most {self.crop}"
            )
        return self


class ClassifierSpec(HeadSpec):
    """Image classification, on the tokens of all branches of a PIIP or on the coarsest map of any backbone."""

    kind: Literal["classifier"] = "classifier"
    num_classes: int = Field(default=1000, gt=0)
    reads: Annotated[Literal["tokens", "map"], Added("tokens")] = "tokens"
    """`tokens` of a PIIP's branches (a single ViT is one of one branch). `map`: the mean of the map at stride 32 and a linear layer,
    as in a ResNet; for any backbone."""
    merge: bool = False
    """Tokens only. False: a norm and a linear layer per branch, logits averaged (released). True: branches merged, then one of both."""
    head_token: Literal["first_patch", "class", "mean"] = "mean"
    """What separate heads read. `mean` of all patches. `class` needs class tokens in every branch; what the last interaction gives to
    the patches is then read by nobody, and its parameters learn nothing. `first_patch`, the upper left one, is what the released
    networks were trained and scored with (a slip: class tokens were split off one line before). Merged heads always take the mean."""

    @property
    def wants(self) -> Wish:
        """What the backbone gives."""
        return Maps((32,)) if self.reads == "map" else Tokens(None if self.merge else self.num_classes)

    @model_validator(mode="after")
    def _a_map_has_no_tokens(self) -> Self:
        if self.reads == "map" and (self.merge or self.head_token != "mean"):
            raise ValueError(
                f"reads 'map' takes the mean of a map: merge={self.merge} and head_token={self.head_token!r} are for reads 'tokens'"
            )
        return self


Head = Annotated[
    FasterRCNNSpec | MaskRCNNSpec | KeypointRCNNSpec | CascadeRCNNSpec | CascadeMaskRCNNSpec | RetinaNetSpec
    | DINOSpec | UPerNetSpec | ClassifierSpec, Field(discriminator="kind"),
]  # fmt: skip
