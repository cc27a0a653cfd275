"""Vision Transformers small enough for two CPU cores, registered with timm as pico_tiny, pico_small, pico_base."""

from pathlib import Path
from typing import Any

from timm.layers import PatchEmbed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from piip.weights.read import WeightsError

WEIGHTS = Path(__file__).parent / "weights"

# arch: (width, depth, heads). Patch 8: from scratch, patch 16 learned far slower on small digits (0.18 against 0.5 AP of boxes)
GEOMETRY = {
    "pico_tiny": (64, 6, 2),
    "pico_small": (96, 6, 3),
    "pico_base": (128, 6, 4),
}
PATCH = 8
IMAGE = 128
"""Side of the images the position grid is stored for: 16 x 16 patches."""


class ConvStem(PatchEmbed):
    """Three stride-2 convolutions in the place of one 8x8 patch convolution: what a small ViT needs to see edges early."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        width = self.proj.out_channels
        layers: list[nn.Module] = []
        channels = self.proj.in_channels
        for out in (width // 4, width // 2, width):
            layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False), nn.GroupNorm(1, out), nn.GELU()]
            channels = out
        # a linear end, so that the sum with the position embedding starts centred
        self.proj = nn.Sequential(*layers, nn.Conv2d(width, width, 1))


def weights_file(arch: str) -> Path:
    """Where the weights of `pico_tiny.glyphs` and its sisters lie in the package."""
    return WEIGHTS / f"{arch}.safetensors"


def require_weights(arch: str) -> None:
    """Raises WeightsError when `arch` is one of ours and its weights are not in the package."""
    if arch.split(".")[0] in GEOMETRY and not weights_file(arch).is_file():
        raise WeightsError(
            f"no pretrained weights for branch {arch!r}: {weights_file(arch).name} is not in {WEIGHTS.parent.name}/{WEIGHTS.name}/. "
            "Make it with experiments/pretrain_pico.py, or set model.backbone.branches.N.pretrained=false"
        )


def _create(arch: str, pretrained: bool, **kwargs: Any) -> VisionTransformer:
    width, depth, heads = GEOMETRY[arch]
    plain = {
        "img_size": IMAGE, "patch_size": PATCH, "embed_dim": width, "depth": depth, "num_heads": heads, "mlp_ratio": 3.0,
        "class_token": False, "global_pool": "avg", "init_values": 1.0, "embed_layer": ConvStem, "final_norm": False,
        "pretrained_cfg_overlay": {"file": str(weights_file(f"{arch}.glyphs"))},
    }  # fmt: skip
    given = {name: value for name, value in kwargs.items() if value is not None}
    net = build_model_with_cfg(
        VisionTransformer, arch, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **{**plain, **given}
    )
    if kwargs.get("num_classes"):
        net.fc_norm = nn.LayerNorm(width, eps=1e-6)  # the pretraining ends without a norm; a classifier learns its own
    return net


default_cfgs = generate_default_cfgs(
    {
        f"{arch}.glyphs": {
            "num_classes": 0, "input_size": (3, IMAGE, IMAGE), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
            "first_conv": "patch_embed.proj.0", "classifier": "head",
        }
        for arch in GEOMETRY
    }
)  # fmt: skip


@register_model
def pico_tiny(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """The smallest one: sees the largest image."""
    return _create("pico_tiny", pretrained, **kwargs)


@register_model
def pico_small(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """The middle one."""
    return _create("pico_small", pretrained, **kwargs)


@register_model
def pico_base(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """The largest one: sees the smallest image."""
    return _create("pico_base", pretrained, **kwargs)
