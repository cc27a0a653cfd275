"""InternImage: the hierarchy of blocks that PIIP is compared with."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from piip.contracts import Input
from piip.spec.base import Added, DecidesNoNumber
from piip.spec.networks import MAX_RESOLUTION, MIN_RESOLUTION, BackboneSpec, Colour, Seen, Spread

_Count = Annotated[int, Field(gt=0)]


class InternImageForm(BackboneSpec):
    """What InternImages are made of, one or two of them."""

    samples: ClassVar[bool] = True
    word: ClassVar[str] = "internimage"
    """How its name begins."""

    label: Annotated[str, DecidesNoNumber()] = ""
    """Letters for people, e.g. `t`; not part of the digest."""
    resolution: int = Field(ge=MIN_RESOLUTION, le=MAX_RESOLUTION)
    """Long side of the input in pixels."""
    channels: int = Field(default=64, gt=0, multiple_of=2)
    """Of the first level; every next one has twice as many."""
    depths: tuple[_Count, _Count, _Count, _Count] = (4, 4, 18, 4)
    """Blocks of the four levels."""
    groups: tuple[_Count, _Count, _Count, _Count] = (4, 8, 16, 32)
    """Groups of DCNv3 a level: 16 channels a group in T to XL, 32 in H and G."""
    norms: Literal["pre", "post", "res_post"] = "pre"
    """Where a block's norms are: in front of DCNv3 and MLP (T), behind them (S to XL, G), in front and behind (H). Where they are
    behind, no norm ends a level, but with `center_feature_scale`."""
    layer_scale: float | None = Field(default=1.0, gt=0)
    """Initial layer scale; None: there is none (H, G)."""
    offset_scale: float = Field(default=1.0, gt=0)
    """Factor of DCNv3's offsets and taps: 2 in L and XL."""
    dw_kernel_size: Literal[3, 5] = 3
    """Side of the depthwise convolution that offsets come from: 5 in H and G."""
    center_feature_scale: bool = False
    """DCNv3 mixes the pixel's own value in (H, G)."""
    post_norm_blocks: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Blocks of the third level, from 0, after which a norm stands: every sixth in H and G."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    drop_path_rule: Literal["constant", "linear"] = "linear"
    """Over the blocks: all alike, or from 0 growing to `drop_path` (published)."""
    checkpointing: bool = False
    """Recompute the blocks' activations in the backward pass: less memory, about a third more time."""
    weights: Annotated[str | None, Added(None)] = None
    """File of the public pretraining, a classifier's, which its head is not taken of; None starts from random weights."""
    mean: Colour = (123.675, 116.28, 103.53)
    std: Spread = (58.395, 57.12, 57.375)
    """RGB, in 0..255: ImageNet's."""

    @property
    def files(self) -> dict[str, str]:
        """Its pretraining."""
        return {"weights": self.weights} if self.weights else {}

    @property
    def networks(self) -> tuple[Seen, ...]:
        """Itself."""
        return (Seen(f"{self.word}_{self.label or self.channels}", self.resolution, self.weights is not None),)

    @property
    def title(self) -> str:
        """`InternImage-T`."""
        return f"InternImage-{self.label.upper() or self.channels}"

    @property
    def words(self) -> str:
        """What it is."""
        return "a hierarchy of blocks whose samples move with the image (DCNv3), which sees one image size"

    @property
    def start(self) -> str:
        """`pretrained (internimage_t_1k_224.pth)`."""
        return f"pretrained ({self.weights.rpartition('/')[2]})" if self.weights else "from scratch"

    @property
    def input(self) -> Input:
        """What data sets prepare images for."""
        return Input(self.resolution, self.mean, self.std)

    def drop_paths(self) -> list[float]:
        """Rate of every block, from the first."""
        count = sum(self.depths)
        if self.drop_path_rule == "constant":
            return [self.drop_path] * count
        return [self.drop_path * block / max(count - 1, 1) for block in range(count)]

    @model_validator(mode="after")
    def _groups_divide_channels(self) -> Self:
        widths = [self.channels * 2**level for level in range(4)]
        if any(width % groups for width, groups in zip(widths, self.groups, strict=True)):
            raise ValueError(f"groups {list(self.groups)} do not divide the levels' channels {widths}")
        return self

    @model_validator(mode="after")
    def _form_is_a_published_one(self) -> Self:
        if self.norms == "res_post" and self.layer_scale is not None:
            raise ValueError(
                f"norms 'res_post' goes without a layer scale, got layer_scale {self.layer_scale:g}: set it to null"
            )
        blocks, depth = list(self.post_norm_blocks), self.depths[2]
        if blocks != sorted(set(blocks)) or any(block >= depth for block in blocks):
            raise ValueError(
                f"post_norm_blocks {blocks} are to be blocks of the third level, rising from 0 to {depth - 1}"
            )
        return self


class InternImageSpec(InternImageForm):
    """InternImage (arXiv 2211.05778), maps at strides 4, 8, 16, 32; its sizes are in presets/families.py."""

    kind: Literal["internimage"] = "internimage"
