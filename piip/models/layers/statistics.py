"""Whose images are counted in training: of BatchNorms, and of what losses are divided by."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


def share_statistics(head: nn.Module, *, workers: int, device: torch.device) -> str:
    """On GPUs, BatchNorms of a head count the images of all workers (SyncBatchNorm, as mmsegmentation's heads); parameters keep names.

    PyTorch has no such BatchNorm for the CPU: there every worker counts its own images, so that the number of workers changes what is
    learned, and the statistics of rank 0 are those that are kept.

    Args:
        head: Changed in place.
        workers: In the process group.
        device: The workers'.

    Returns:
        What a person should know of it; empty where there is nothing to say.
    """
    if workers == 1 or not any(isinstance(part, nn.BatchNorm2d) for part in head.modules()):
        return ""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(head)
        return ""
    return f"BatchNorm in the head counts each worker's own images: sharing them among {workers} needs GPUs"


def mean_over_workers(counts: Tensor) -> Tensor:
    """Counts of this worker -> what a worker has in the mean, at least 1. Collective: every worker calls it as often."""
    counts = counts.clone()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(counts)
        counts /= dist.get_world_size()
    return counts.clamp(min=1)
