"""The fill behind tests/golden/piip_*: every value is a function of the official parameter name and the shape."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parent.parent / "golden"
ATOL = 5e-5  # 1 and 2 threads of the official code differ by 6e-6; a wrong LayerNorm eps by 2e-4

_AROUND_ONE = {"weight", "gamma", "gamma_1", "gamma_2", "ca_gamma", "cffn_gamma"}


def official_shape(name: str, shape: Sequence[int]) -> list[int]:
    """The merge scalars w1, w2, ... have no dimension there and one element here (DeepSpeed cannot broadcast the former)."""
    return [] if re.fullmatch(r"w\d+", name) else list(shape)


def value(key: str, shape: Sequence[int]) -> Tensor:
    z = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    leaf = key.split(".")[-1]
    if len(shape) == 0 or (len(shape) == 1 and leaf in _AROUND_ONE):
        z = 1 + 0.1 * z
    elif len(shape) == 1:
        z = z if key.endswith("sampling_offsets.bias") else 0.1 * z
    else:
        z = 0.2 * z if leaf == "pos_embed" else z / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(z, dtype=np.float32))


def inputs(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32))


def fill(module: nn.Module, rename: Callable[[str], str] = lambda name: name) -> nn.Module:
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            tensor.copy_(value(rename(name), official_shape(rename(name), tensor.shape)))
    return module.eval()


def units() -> dict[str, Tensor]:
    with np.load(GOLDEN / "piip_units.npz") as arrays:
        return {name.replace(":", "/"): torch.from_numpy(arrays[name]) for name in arrays}


def detection(case: str) -> tuple[dict, list[Tensor]]:
    """The facts of a tiny backbone (input_shape, shapes, loss, grad_norm) and its four maps."""
    facts = json.loads(gzip.decompress((GOLDEN / "piip_det.json.gz").read_bytes()))[case]
    with np.load(GOLDEN / "piip_det.npz") as arrays:
        return facts, [torch.from_numpy(arrays[f"{case}:out{level}"]) for level in range(4)]


def full_size() -> dict:
    return json.loads(gzip.decompress((GOLDEN / "piip_full.json.gz").read_bytes()))
