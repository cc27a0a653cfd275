"""Score a model on a split: every image alone, so that batch size and number of workers never change a number."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from piip.contracts import Dataset
from piip.data.loader import EvalLoader

Results = list[dict[str, Any]]
"""COCO results format: image_id, category_id, bbox (xywh, original pixels), score, segmentation (RLE)."""


def predict(
    model: nn.Module,
    dataset: Dataset,
    *,
    rank: int = 0,
    world_size: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Results:
    """Predictions for this rank's images of `dataset`, in original image pixels."""
    loader = EvalLoader(dataset, rank=rank, world_size=world_size, num_threads=torch.get_num_threads())
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    results: Results = []
    with torch.inference_mode():
        done = 0
        for batch in loader:
            predictions = model(batch.images.to(device), batch.sizes)
            for prediction, info in zip(predictions, batch.infos, strict=True):
                results += dataset.to_file(prediction, info)
            done += len(batch.infos)
            if progress:
                progress(done, len(loader))
    model.train(was_training)
    return results


def evaluate(
    model: nn.Module, dataset: Dataset, *, rank: int = 0, world_size: int = 1
) -> tuple[dict[str, float], Results]:
    """COCO metrics and predictions of the whole split, on rank 0; empty elsewhere. Collective when `world_size` > 1."""
    if world_size > 1:
        for buffer in model.buffers():  # running statistics differ between ranks; rank 0's are the ones saved
            dist.broadcast(buffer, src=0)
    results = predict(model, dataset, rank=rank, world_size=world_size)
    if world_size > 1:
        parts: list[Any] = [None] * world_size
        dist.gather_object(results, parts if rank == 0 else None, dst=0)
        # merged in the order of the data set, whatever the number of ranks
        results = [r for part in parts for r in part] if rank == 0 else []
        order = {info.image_id: i for i, info in enumerate(dataset.infos)}
        results.sort(key=lambda r: order[r["image_id"]])
    return (score(dataset, results), results) if rank == 0 else ({}, [])


def score(dataset: Dataset, results: Results) -> dict[str, float]:
    """COCO metrics of predictions over the images of `dataset`."""
    metric = dataset.metric()
    metric.merge([results])
    return metric.compute()
