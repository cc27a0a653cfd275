"""The branch that a spec describes: a network of timm, or one of ours, what is refused, and its pretraining."""

import timm
from timm.layers import PatchEmbed
from timm.models import beit
from timm.models.convnext import ConvNeXt
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from piip.models.branches import internvit, pico, uniperceiver
from piip.models.branches.convnext import ConvNeXtBranch
from piip.models.branches.pretraining import hub_overlay, load_pretraining
from piip.models.branches.vit import Branch
from piip.nearest import nearest
from piip.spec import BranchSpec
from piip.weights.read import WeightsError
from piip.weights.resizing import resize_patches, resize_positions


def build_branch(
    spec: BranchSpec, pretrained: bool = True, *, num_classes: int | None = None
) -> Branch | ConvNeXtBranch:
    """The branch a spec describes, from its pretraining (timm's, or `spec.weights`) when both `spec.pretrained` and `pretrained` say so.

    Args:
        spec: What to build.
        pretrained: False starts from random weights, whatever the spec says.
        num_classes: Of the head that a classifier reads; None builds none.

    Raises:
        ValueError: timm has no such network, or not of this kind.
        WeightsError: The pretrained weights cannot be had.
    """
    pretrained = pretrained and spec.pretrained
    net = _create(spec, pretrained and spec.weights is None, num_classes or 0)
    branch = _branch_of(net, spec, num_classes)
    if pretrained and spec.weights is not None:
        load_pretraining(branch, spec)
    return branch


def _branch_of(net: nn.Module, spec: BranchSpec, num_classes: int | None) -> Branch | ConvNeXtBranch:
    if isinstance(net, ConvNeXt):
        return ConvNeXtBranch(net, drop_path=spec.drop_path, checkpointing=spec.checkpointing)
    if lacking := _why_no_branch(net):
        raise ValueError(
            f"branch {spec.arch!r} is no plain ViT with learned positions (as deit3_small_patch16_224 is), BEiT or ConvNeXt: {lacking}"
        )
    assert isinstance(net, VisionTransformer | beit.Beit)
    if spec.patch_size:
        resize_patches(net, spec.patch_size)
    if spec.positions == "resolution":
        resize_positions(net, spec.resolution // int(net.patch_embed.patch_size[0]))
    branch = Branch(
        net, window=spec.window, window_padding=spec.window_padding, drop_path=spec.drop_path,
        linear=spec.drop_path_rule == "linear", layer_scale=spec.layer_scale, class_token=spec.class_token,
        class_position=spec.family == "internvit", num_classes=num_classes, checkpointing=spec.checkpointing,
    )  # fmt: skip
    if spec.activation == "gelu_tanh":
        for block in branch.blocks:
            block.mlp.act = nn.GELU(approximate="tanh")
    return branch


def _why_no_branch(net: nn.Module) -> str | None:
    """What `Branch`, which runs a network's parts itself, would leave out or stumble over; None: it runs all of them."""
    if not isinstance(net, VisionTransformer | beit.Beit):
        return f"it is of class {type(net).__name__}"
    if not isinstance(net.patch_embed, PatchEmbed):
        return f"its patches come from a {type(net.patch_embed).__name__}"
    if type(net.blocks[0]) not in (Block, beit.Block):
        return f"its blocks are of the kind {type(net.blocks[0]).__name__}"
    if isinstance(net, VisionTransformer) and net.pos_embed is None:
        return "it has no learned positions"
    if isinstance(net, VisionTransformer) and net.num_reg_tokens:
        return f"it has {net.num_reg_tokens} register tokens"
    return None


def _create(spec: BranchSpec, pretrained: bool, num_classes: int) -> nn.Module:
    name = spec.arch.split(".")[0]
    if not timm.is_model(name):
        names = timm.list_models(["*patch1*", "convnext*"]) + list(pico.GEOMETRY)
        raise ValueError(
            f"timm {timm.__version__} has no network {name!r} (branch {spec.arch!r}). {nearest(name, names)}"
        )
    if pretrained:
        pico.require_weights(spec.arch)
        if name in (*internvit.default_cfgs, *uniperceiver.default_cfgs):
            raise WeightsError(
                f"the weights of {name!r} are public as a file only: give its path in model.backbone.branches.N.weights, "
                "or start from random weights with model.backbone.branches.N.pretrained=false"
            )
    try:
        without = (
            "name a file: model.backbone.branches.N.weights=PATH, or set model.backbone.branches.N.pretrained=false"
        )
        overlay = hub_overlay(spec.arch, otherwise=without) if pretrained else None
        return timm.create_model(
            spec.arch, pretrained=pretrained, num_classes=num_classes, pretrained_cfg_overlay=overlay
        )
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise WeightsError(
            f"no pretrained weights for branch {spec.arch!r}: {type(error).__name__}: {error}\n"
            "They come from the Hugging Face hub: give this machine a network or a filled HF_HOME cache, "
            "or start from random weights with model.backbone.branches.N.pretrained=false"
        ) from error
