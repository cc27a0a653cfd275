"""Backbones: the branches of a PIIP and how they meet, and the networks they are compared with."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from piip.contracts import Input
from piip.spec.base import Added, DecidesNoNumber, Spec
from piip.spec.internimage import InternImageSpec
from piip.spec.mpvit import MPViTSpec
from piip.spec.networks import MAX_RESOLUTION, MIN_RESOLUTION, BackboneSpec, Colour, Seen, SingleSpec, Spread
from piip.spec.resnet import ResNetSpec

Window = Annotated[int, Field(gt=0)] | None

Family = Literal["deit", "internvit", "beit", "uniperceiver", "convnext"]
"""The official branch classes: vit_models, InternViT6B (also AugReg, MAE, DINOv2), BEiT, UnifiedBertEncoder, ConvNeXt."""

FAMILIES: dict[str, Family] = {
    "beit": "beit",
    "convnext": "convnext",
    "internvit": "internvit",
    "uniperceiver": "uniperceiver",
    "vit_": "internvit",
}
"""How names of `arch` begin; all others are of the `deit` family."""


class BranchSpec(Spec):
    """One image size and the network that sees it."""

    arch: str
    """timm name with its weights' tag, e.g. `deit3_small_patch16_224.fb_in22k_ft_in1k`; ours are `pico_*` (models/branches/pico.py)."""
    resolution: int = Field(ge=MIN_RESOLUTION, le=MAX_RESOLUTION)
    """Nominal side S_i in pixels; the branch sees the input scaled by S_i / S_0 (S_0 = the first branch's)."""
    pretrained: bool = True
    """Start from the weights of `arch`'s tag."""
    weights: str | None = None
    """File of the family's public pretraining; None takes timm's weights of `arch`'s tag."""
    drop_path: float = Field(default=0.05, ge=0, lt=1)
    drop_path_rule: Literal["constant", "linear"] = "constant"
    """Over the blocks: all alike (published vit_models, classification), or from 0 growing to `drop_path` (all other families)."""
    window: Window | tuple[Window, ...] = 14
    """Attention window in patches; None attends globally. Several are repeated over the blocks: (14, 14, None) makes every third
    block global."""
    window_padding: Literal["before_qkv", "after_qkv"] = "before_qkv"
    """Where maps that are no multiple of the window are zero padded. `before_qkv` is what the published networks were trained
    with; `after_qkv` what the official DeiT code does without flash-attn, with other numbers."""
    patch_size: int | None = Field(default=None, gt=0)
    """Patches in pixels; None: as `arch` was pretrained. Others resize kernel and positions (MAE-H, DINOv2, InternViT-6B: 14 to 16)."""
    positions: Literal["pretraining", "resolution"] = "pretraining"
    """Size the position grid is stored at: the pretraining's, resized for every image (detection), or this branch's resolution
    (segmentation, classification)."""
    layer_scale: float | None = Field(default=1.0, gt=0)
    """Initial layer scale where the pretraining has none (DeiT-1, MAE, AugReg); None: those blocks get none."""
    activation: Literal["gelu", "gelu_tanh"] = "gelu"
    """Activation of the MLPs; `gelu_tanh` is the published fused MLP ("faster training")."""
    class_token: bool = False
    """A class token without position goes through the blocks with the patches and sits out the interactions (classification)."""
    checkpointing: bool = False
    """Recompute the blocks' activations in the backward pass: less memory, about a third more time."""
    mean: Colour = (127.5, 127.5, 127.5)
    std: Spread = (127.5, 127.5, 127.5)
    """RGB, in 0..255: the pixels the pretraining saw, or those the published network was trained with."""

    @property
    def family(self) -> Family:
        """Which of the official branch classes `arch` belongs to; decides parameter names and what is resized."""
        for prefix, family in FAMILIES.items():
            if self.arch.startswith(prefix):
                return family
        return "deit"


class InteractionSpec(Spec):
    """How neighbouring branches exchange features (paper section 3.2)."""

    count: int = Field(default=12, ge=0)
    """Number of interactions; every branch's blocks are split evenly between them. 0: branches meet in the merge only."""
    num_heads: int = Field(default=16, gt=0)
    num_points: int = Field(default=4, gt=0)
    value_ratio: float = Field(default=0.5, gt=0)
    """Width of the value inside attention as a part of the query's width."""
    ffn: Annotated[bool, Added(True)] = True
    """A ConvFFN follows the attention (official: `with_cffn`)."""
    ffn_ratio: float = Field(default=0.25, gt=0)
    drop_path: float = Field(default=0.4, ge=0, lt=1)
    """Stochastic depth of the ConvFFN."""
    attention: Literal["deformable", "dense"] = "deformable"
    """`dense` lets every query see the neighbour's whole map (in the paper's ablation; no released network)."""
    projection: bool = True
    """Project the neighbour's tokens to the query's width before attention; False is a half of the "faster training" form."""
    norms: bool = True
    """LayerNorms of query, feature and FFN; False is the other half of the "faster training" form."""


class PIIPSpec(BackboneSpec):
    """N >= 1 branches, N - 1 interaction units per interaction, merged into maps of falling resolution."""

    samples: ClassVar[bool] = True

    kind: Literal["piip"] = "piip"
    label: Annotated[str, DecidesNoNumber()] = ""
    """Letters for people, e.g. `TSB`; not part of the digest."""
    branches: tuple[BranchSpec, ...] = Field(min_length=1)
    """From high to low resolution, that is from the smallest to the largest network: TSB, 1120/896/448."""
    interaction: InteractionSpec = InteractionSpec()
    fpn: Literal["simple", "regular"] = "simple"
    """For heads that read maps. `simple`: all from the last merge (ViTs). `regular`: one merge per map, after `merge_after` and at the
    end (networks with ConvNeXt branches)."""
    merge_after: tuple[int, ...] = ()
    """Interactions, counted from 0, after which `regular` merges the first three of its four maps; published: (0, 1, 10)."""
    unused_level: bool = False
    """Keep the stride-4 level though the head does not ask for it, as the released three-branch DINO networks do (never used, 8.4 M
    parameters in SBL)."""
    input_branch: int = Field(default=0, ge=0)
    """The branch that sees the input as it is. 0 but for the official three-branch segmentation class (1: the first branch's
    image is then enlarged)."""

    @property
    def networks(self) -> tuple[Seen, ...]:
        """Its branches."""
        return tuple(Seen(branch.arch, branch.resolution, branch.pretrained) for branch in self.branches)

    @property
    def files(self) -> dict[str, str]:
        """The public files that branches start from; timm's own are not among them."""
        return {
            f"branches.{i}.weights": branch.weights
            for i, branch in enumerate(self.branches)
            if branch.pretrained and branch.weights
        }

    @property
    def resolution(self) -> int:
        """Long side of the network's input."""
        return self.branches[self.input_branch].resolution

    @property
    def row_name(self) -> str:
        """`piip_tsb_1120_896_448`, `vit_b_scratch_256`."""
        kind = "piip" if len(self.branches) > 1 else "vit"
        start = [] if all(branch.pretrained for branch in self.branches) else ["scratch"]
        return "_".join([kind, self.label, *start, *(str(branch.resolution) for branch in self.branches)])

    @property
    def title(self) -> str:
        """`PIIP-TSB`, `ViT-B`."""
        if (count := len(self.branches)) > 1:
            return f"PIIP-{self.label.upper() or count}"
        return f"ViT-{self.label.upper() or self.branches[0].arch.split('.')[0]}"

    @property
    def words(self) -> str:
        """Of several branches, or of one alone."""
        if len(self.branches) == 1:
            return "one Vision Transformer, which sees one image size"
        return (
            "networks of rising size see the image at falling size and exchange features. Letters: t, s, b, l, h, 6b from tiny to "
            "6 billion parameters (c.., v..: ConvNeXt, ViT), in the order of the sizes"
        )

    @property
    def input(self) -> Input:
        """What data sets prepare images for: the branch's that sees them as they are."""
        branch = self.branches[self.input_branch]
        return Input(branch.resolution, branch.mean, branch.std)

    @model_validator(mode="after")
    def _high_to_low_resolution(self) -> Self:
        sides = [b.resolution for b in self.branches]
        if sides != sorted(sides, reverse=True):
            raise ValueError(
                f"branches go from high to low resolution (the smallest model sees the largest image), got {sides}"
            )
        return self

    @model_validator(mode="after")
    def _shape_is_possible(self) -> Self:
        if self.input_branch >= len(self.branches):
            raise ValueError(f"input_branch {self.input_branch} of {len(self.branches)} branches: 0 is the first")
        if self.fpn == "regular" and (
            len(self.merge_after) != 3
            or list(self.merge_after) != sorted(set(self.merge_after))
            or not 0 <= self.merge_after[0] <= self.merge_after[-1] < self.interaction.count
        ):
            raise ValueError(
                f"a regular FPN merges after 3 of the {self.interaction.count} interactions (and at the end), in rising order "
                f"from 0, got merge_after={list(self.merge_after)}; published: [0, 1, 10]"
            )
        if self.fpn != "regular" and self.merge_after:
            raise ValueError(
                f"merge_after={list(self.merge_after)} is for fpn='regular', not {self.fpn!r}: leave it empty"
            )
        return self


class CNNSpec(SingleSpec):
    """A convolutional network through timm, maps at strides 4, 8, 16, 32: the peers we compare with."""

    kind: Literal["cnn"] = "cnn"


Backbone = Annotated[PIIPSpec | CNNSpec | InternImageSpec | MPViTSpec | ResNetSpec, Field(discriminator="kind")]
