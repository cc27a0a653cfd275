"""The tiny DINO of the official code: its configuration in our words, its filling and what came out (tests/golden/dino_head_tiny.*).

Without denoising. See tests/golden/peers_README.md.
"""

import gzip
import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from filled import value
from torch import Tensor

from piip.models.heads.dino.head import DINO
from piip.spec import DINOSpec
from piip.weights.names.dino import official_name, split

GOLDEN = Path(__file__).parents[1] / "golden"
SAID = json.loads(gzip.decompress((GOLDEN / "dino_head_tiny.json.gz").read_bytes()))
SPEC = DINOSpec(
    num_classes=5, num_queries=12, embed_dim=32, norm_groups=8, encoder_layers=2, decoder_layers=2, ffn_dim=64,
    max_detections=10,
)  # fmt: skip
CHANNELS = (32, 64, 128)
SIZES = [tuple(meta["img_shape"][:2]) for meta in SAID["gt"]["metas"]]
FACTORS = [meta["scale_factor"] for meta in SAID["gt"]["metas"]]


@cache
def outputs() -> dict[str, Tensor]:
    with np.load(GOLDEN / "dino_head_tiny.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def features(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [outputs()[f"feat{level}"].to(dtype) for level in range(3)]


def targets(dtype: torch.dtype = torch.float32) -> list[dict[str, Tensor]]:
    truth = zip(SAID["gt"]["boxes"], SAID["gt"]["labels"], strict=True)
    return [{"boxes": torch.tensor(boxes, dtype=dtype), "labels": torch.tensor(labels) + 1} for boxes, labels in truth]


def golden_head(dtype: torch.dtype = torch.float32) -> DINO:
    """Ours, filled as the official one was; every tensor of it has a name and a shape there."""
    head = DINO(CHANNELS, SPEC).to(dtype)
    filled = {
        f"{place}{key}": value(key, shape, scale=0.2, around_one=role == "norm_weight")
        for place, part in (("bbox_head.", "head"), ("neck.", "neck"))
        for key, (shape, role) in SAID[part].items()
    }
    theirs = split(filled)
    for ours, tensor in head.state_dict().items():
        official = theirs.pop(official_name(f"head.{ours}", SPEC))
        assert tensor.shape == official.shape
        tensor.copy_(official)
    assert not theirs
    return head
