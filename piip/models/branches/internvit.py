"""InternViT-6B, which timm does not have: RMSNorm, queries and keys normed over all channels, no bias in qkv."""

from functools import partial
from typing import Any

from timm.layers import RmsNorm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer

from piip.models.branches.attention import FullNormAttention

RMS_NORM = partial(RmsNorm, eps=1e-6)

INTERNVIT: dict[str, Any] = {
    "qkv_bias": False, "norm_layer": RMS_NORM, "attn_layer": FullNormAttention, "init_values": 0.1,
}  # fmt: skip
"""What InternViT-6B's blocks have and a plain ViT's do not; arguments of timm's VisionTransformer."""

default_cfgs = generate_default_cfgs(
    {"internvit_6b_patch14_224": {"input_size": (3, 224, 224), "first_conv": "patch_embed.proj", "classifier": "head"}}
)


@register_model
def internvit_6b_patch14_224(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """48 blocks of 3200 channels in 25 heads. Its weights, intern_vit_6b_224px.pth, come as a file."""
    shape = {"img_size": 224, "patch_size": 14, "embed_dim": 3200, "depth": 48, "num_heads": 25}
    given = {name: value for name, value in kwargs.items() if value is not None}
    return build_model_with_cfg(
        VisionTransformer, "internvit_6b_patch14_224", pretrained, **{**shape, **INTERNVIT, **given}
    )
