"""Checkpoints as DeepSpeed itself writes them."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor
from waiting import LONG

KINDS = {
    "zero0": (0, False),
    "zero1": (1, False),
    "zero1_bf16": (1, True),
    "zero2": (2, False),
    "zero3": (3, False),
    "zero3_bf16": (3, True),
}
"""Name -> ZeRO stage, bf16."""


def save_with_deepspeed(folder: Path, tensors: dict[str, Tensor], kind: str, *, world_size: int = 2) -> Path:
    """What `world_size` ranks of real DeepSpeed, on the CPU, save of a module with these parameters."""
    stage, bf16 = KINDS[kind]
    target = folder / kind
    torch.save(tensors, folder / "tensors.pt")
    worker = Path(__file__).with_name("deepspeed_worker.py")
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ranks = [
        subprocess.Popen(
            [sys.executable, worker, str(rank), str(world_size), str(stage), str(int(bf16)), folder / "tensors.pt", target],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world_size)
    ]  # fmt: skip
    for rank in ranks:
        said, _ = rank.communicate(timeout=LONG)
        assert rank.returncode == 0, said[-3000:]
    return target
