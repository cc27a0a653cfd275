"""AugReg's original files: NumPy archives of a Flax Vision Transformer, under timm's names and in PyTorch's layout.

timm reads them too (`VisionTransformer.load_pretrained`), straight into a network of its own: what it does not look for it passes
over, so that a deeper file loads as well. Here every array of the file has to be accounted for; a test holds the two to the same values.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

MARK = "embedding/kernel"
"""The array that tells such a file."""

_WORDS = {
    "Transformer": "", "posembed_input": "", "pos_embedding": "pos_embed", "cls": "cls_token",
    "embedding": "patch_embed.proj", "encoder_norm": "norm", "LayerNorm_0": "norm1", "LayerNorm_2": "norm2",
    "MultiHeadDotProductAttention_1": "attn", "out": "proj", "MlpBlock_3": "mlp", "Dense_0": "fc1", "Dense_1": "fc2",
    "kernel": "weight", "scale": "weight",
}  # fmt: skip
_QKV = ("query", "key", "value")


def to_timm(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The arrays under the names and in the shapes that timm's ViT gives them; unknown ones under names that no network has.

    Args:
        arrays: Name in the file, e.g. `Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel`, -> values.
    """
    tensors = {_renamed(name): _turned(name, value) for name, value in arrays.items()}
    for query in [name for name in tensors if ".attn.query." in name]:
        parts = [query.replace(".query.", f".{part}.") for part in _QKV]
        if all(part in tensors for part in parts):
            tensors[query.replace(".query.", ".qkv.")] = torch.cat([tensors.pop(part) for part in parts])
    return tensors


def _renamed(name: str) -> str:
    words = [_WORDS.get(word, word) for word in name.split("/")]
    return re.sub(r"encoderblock_(\d+)", r"blocks.\1", ".".join(word for word in words if word))


def _turned(name: str, value: Tensor) -> Tensor:
    """Flax multiplies from the right and keeps heads apart: (C, N, D) to them, (N, D, C) back; a patch kernel is (h, w, 3, C)."""
    if value.ndim == 4:
        return value.permute(3, 2, 0, 1)
    if re.search(rf"/({'|'.join(_QKV)})/", name):
        return value.flatten() if value.ndim == 2 else value.flatten(1).T
    if name.endswith("/kernel"):
        return value.flatten(0, -2).T
    return value
