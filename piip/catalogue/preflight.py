"""What cannot be trained, or not within a budget, is refused before anything starts."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from piip.catalogue.counted import counted
from piip.counting.costs import Cost, added
from piip.data.locating import locate
from piip.data.sources import Source
from piip.spec import ExperimentSpec, UPerNetSpec

if TYPE_CHECKING:
    from piip.counting.memory import Memory

ON_A_GPU = ("flash", "varlen", "cuda", "triton")
"""What `speed.attention` and an interaction's kernel may name and only workers with a GPU have."""
ANYWHERE = ("auto", "sdpa", "products", "cpp", "reference")


def check(specs: Sequence[ExperimentSpec], *, workers: int, gpus_per_worker: int) -> None:
    """Refuse what no data are needed to refuse.

    Raises:
        ValueError: Attention or a kernel that workers cannot run, workers that do not divide the batch, or have one image where
            BatchNorm needs two.
    """
    check_device(specs, gpus_per_worker)
    for spec in specs:
        spec.train.split(workers)
        check_statistics(spec, workers, gpus_per_worker)


def check_device(specs: Sequence[ExperimentSpec], gpus_per_worker: int) -> None:
    """Refuse attention and kernels ($PIIP_KERNEL, too) that do not exist, or that were asked for by name and need a GPU.

    Raises:
        ValueError: What `active_attention` and `active_kernel` would say in the worker, and how workers get a GPU.
    """
    runs = (*ANYWHERE, *ON_A_GPU) if gpus_per_worker else ANYWHERE
    attentions = {spec.speed.attention: spec.train.precision for spec in specs if spec.speed.attention not in runs}
    asked = {spec.speed.kernel for spec in specs if spec.model.samples}
    # the variable stands for "auto" only
    instead = os.environ.get("PIIP_KERNEL") or "auto"
    kernels = [kernel for kernel in asked if (instead if kernel == "auto" else kernel) not in runs]
    if not attentions and not kernels:
        return
    # PyTorch from here on: something will be refused
    import torch

    from piip.models.speed import active_attention
    from piip.ops.kernels import active_kernel

    try:
        for attention, precision in attentions.items():
            active_attention(attention, torch.device("cpu"), precision)
        for kernel in kernels:
            active_kernel(kernel, "cpu")
    except RuntimeError as error:
        raise ValueError(f"{error} Or give each worker a GPU: --gpus-per-worker 1.") from None


def check_statistics(spec: ExperimentSpec, workers: int, gpus_per_worker: int) -> None:
    """Refuse an UperNet whose BatchNorm would see one value a channel: one image, averaged over the whole of it.

    On GPUs several workers count their images together (models/layers/statistics.py).
    """
    head, train = spec.model.head, spec.train
    if not isinstance(head, UPerNetSpec) or 1 not in head.pool_scales or (gpus_per_worker and workers > 1):
        return
    if (train.micro_batch or train.batch_size // workers) == 1:
        raise ValueError(
            f"{spec.name} would train on one image a worker: pooled to one value a channel, UperNet's BatchNorm has nothing to compare "
            f"it with. Give each worker two: train.batch_size={2 * workers}, fewer workers, or a larger train.micro_batch"
        )


def sources_of(spec: ExperimentSpec, custom: Mapping[str, Source] | None = None) -> dict[str, Source]:
    """The files of a spec's training and validation split.

    Raises:
        DataError: One is not there.
    """
    return {split: locate(spec.data, split, custom) for split in ("train", "val")}


def over_budget(
    specs: Sequence[ExperimentSpec], *, max_gflops: float | None, max_memory_gb: float | None, workers: int = 1
) -> dict[str, str]:
    """Rows that cost more than they may: name -> what it costs and may cost.

    Args:
        specs: The rows.
        max_gflops: Of the whole network at its largest input; None is no limit.
        max_memory_gb: Predicted peak of one worker in training, 1e9 bytes; None is no limit.
        workers: Of a trial.
    """
    over: dict[str, str] = {}
    for spec in specs:
        if max_gflops is not None and (gflops := cost_of(spec).gflops) > max_gflops:
            over[spec.name] = f"{spec.name} costs {gflops:.2f} GFLOPs, more than --max-gflops {max_gflops:g}"
        elif max_memory_gb is not None and (peak := memory_of(spec, workers).peak_gb) > max_memory_gb:
            over[spec.name] = f"{spec.name} takes {peak:.2f} GB a worker, more than --max-memory-gb {max_memory_gb:g}"
    return over


def cost_of(spec: ExperimentSpec, size: tuple[int, int] | None = None) -> Cost:
    """What a row's network costs at `size` (height, width); None: at its largest input, or at all the views it takes of an image."""
    sizes = [size] if size else spec.data.view_sizes(spec.model.backbone.resolution) or [largest_input(spec)]
    return added([counted(spec.model, *each) for each in sizes])


def memory_of(spec: ExperimentSpec, workers: int = 1, size: tuple[int, int] | None = None) -> "Memory":
    """What a step of a row's training takes on each of `workers`."""
    from piip.counting.memory import training_memory

    return training_memory(spec.model, spec.train, *(size or largest_input(spec)), workers=workers)


def largest_input(spec: ExperimentSpec) -> tuple[int, int]:
    """Height and width of the largest input a row's data make."""
    return spec.data.largest_input(spec.model.backbone.resolution)
