"""Uni-Perceiver's vision encoder, which timm does not have: a plain ViT whose embedding knows frames of a video and is normed."""

from functools import partial
from typing import Any

import torch
from timm.layers import LayerScale
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

GEOMETRY = {
    "uniperceiver_base_patch16_224": (768, 12, 12),
    "uniperceiver_large_patch16_224": (1024, 24, 16),
}
"""Width, depth, heads."""
FRAMES = 8


class UniPerceiver(VisionTransformer):
    """LayerNorms with eps 1e-5, layer scales from zero, and a position for each of 8 video frames, of which an image is the first."""

    def __init__(self, **shape: Any) -> None:
        norm = partial(nn.LayerNorm, eps=1e-5)
        super().__init__(norm_layer=norm, class_token=False, global_pool="avg", **shape)
        self.frame_embed = nn.Parameter(torch.zeros(FRAMES, self.embed_dim))
        self.norm_pre = norm(self.embed_dim)
        for block in self.blocks:
            block.ls1, block.ls2 = LayerScale(self.embed_dim, 0.0), LayerScale(self.embed_dim, 0.0)


def _create(arch: str, pretrained: bool, **kwargs: Any) -> UniPerceiver:
    width, depth, heads = GEOMETRY[arch]
    given = {name: value for name, value in kwargs.items() if value is not None}
    return build_model_with_cfg(
        UniPerceiver, arch, pretrained, **{"embed_dim": width, "depth": depth, "num_heads": heads, **given}
    )


default_cfgs = generate_default_cfgs(
    {arch: {"input_size": (3, 224, 224), "first_conv": "patch_embed.proj", "classifier": "head"} for arch in GEOMETRY}
)


@register_model
def uniperceiver_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> UniPerceiver:
    """Its weights, uni-perceiver-base-L12-H768-224size-torch-pretrained_converted.pth, come as a file."""
    return _create("uniperceiver_base_patch16_224", pretrained, **kwargs)


@register_model
def uniperceiver_large_patch16_224(pretrained: bool = False, **kwargs: Any) -> UniPerceiver:
    """Its weights, uni-perceiver-large-L24-H1024-224size-pretrained_converted.pth, come as a file."""
    return _create("uniperceiver_large_patch16_224", pretrained, **kwargs)
