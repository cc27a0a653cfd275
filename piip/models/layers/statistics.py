"""Whose images are counted in training: of BatchNorms, and of what losses are divided by."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


def share_statistics(model: nn.Module, parts: Sequence[str], *, workers: int, device: torch.device) -> str:
    """On GPUs, BatchNorms count the images of all workers (SyncBatchNorm, as mmsegmentation's heads and MPViT); parameters keep names.

    PyTorch has no such BatchNorm for the CPU: there every worker counts its own images, so that the number of workers changes what is
    learned, and the statistics of rank 0 are those that are kept.

    Args:
        model: Changed in place.
        parts: Names of the submodules whose BatchNorms are meant.
        workers: In the process group.
        device: The workers'.

    Returns:
        What a person should know of it; empty where there is nothing to say.
    """
    having = [name for name in parts if any(isinstance(m, nn.BatchNorm2d) for m in model.get_submodule(name).modules())]
    if workers == 1 or not having:
        return ""
    if device.type == "cuda":
        for name in having:
            nn.SyncBatchNorm.convert_sync_batchnorm(model.get_submodule(name))
        return ""
    where = " and ".join(f"the {name}" for name in having)
    return f"BatchNorm in {where} counts each worker's own images: sharing them among {workers} needs GPUs"


def mean_over_workers(counts: Tensor) -> Tensor:
    """Counts of this worker -> what a worker has in the mean, at least 1. Collective: every worker calls it as often."""
    counts = counts.clone()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(counts)
        counts /= dist.get_world_size()
    return counts.clamp(min=1)
