"""Score a model on a split: every image alone, so that batch size and number of workers never change a number."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor, nn

from piip.contracts import Dataset, Format, Metric, PerClass, SeveralViews
from piip.data.loader import EvalLoader
from piip.data.samples import Batch, ImageInfo

Results = list[tuple[ImageInfo, Any]]
"""Images and what `Dataset.to_file` gave for them."""


class Evaluation(NamedTuple):
    """A model on a split."""

    metrics: dict[str, float]
    """`<task>/<name>` -> number."""
    table: pa.Table | None
    """`Dataset.to_table` of all images, in the data set's order; None where results are not kept."""
    classes: list[dict[str, Any]]
    """See `by_class`."""


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    *,
    rank: int = 0,
    world_size: int = 1,
    keep: Callable[[dict[str, float]], bool] = lambda _: True,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """The split's numbers and, where `keep` wants them, its results. Collective over the process group when `world_size` > 1.

    Every rank predicts its images and matches them with the truth; only the metric's small state travels, and of the results a
    table, where they are kept.

    Args:
        model: In any mode; it goes back to it.
        dataset: A split opened for evaluation.
        rank: Of this worker.
        world_size: Workers.
        keep: Asked once, on rank 0, with the numbers: whether the results are wanted, too.
        progress: Hears (done, all) of this rank's images.

    Returns:
        On rank 0 all of it, without results and classes where they are not kept; nothing on every other rank.
    """
    if world_size > 1:
        for buffer in model.buffers():  # running statistics differ between ranks; rank 0's are the ones saved
            dist.broadcast(buffer, src=0)
    metric, results = score(model, dataset, rank=rank, world_size=world_size, progress=progress)
    states = _gathered(metric.state(), rank, world_size)
    metrics: dict[str, float] = {}
    if rank == 0:
        metric.merge(states)
        metrics = metric.compute()
    wanted = _from_first(rank == 0 and keep(metrics), world_size)
    if not wanted:
        return Evaluation(metrics, None, [])
    tables = _gathered(dataset.to_table(results), rank, world_size)
    if rank:
        return Evaluation({}, None, [])
    return Evaluation(metrics, in_order(tables, dataset), by_class(metric, dataset))


def by_class(metric: Metric, dataset: Dataset) -> list[dict[str, Any]]:
    """The metric's numbers of each class, beside its id and name, in order of label; empty where the metric has none."""
    found = metric.per_class() if isinstance(metric, PerClass) else {}
    classes = ({"id": category["id"], "name": category["name"]} for category in dataset.classes)
    return [category | found.get(category["id"], {}) for category in classes] if found else []


def score(
    model: nn.Module,
    dataset: Dataset,
    *,
    rank: int = 0,
    world_size: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Metric, Results]:
    """This rank's part of an evaluation: a metric that has seen its images (rank, rank + world_size, ..), and its results."""
    loader = EvalLoader(dataset, rank=rank, world_size=world_size, num_threads=torch.get_num_threads())
    device = next(model.parameters()).device
    metric, results = dataset.metric(), Results()
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        done = 0
        for batch in loader:
            for prediction, info in predicted(model, batch, dataset, device):
                result = dataset.to_file(prediction, info)
                metric.update(result, info)
                results.append((info, result))
            done += len(batch.infos)
            if progress:
                progress(done, len(loader))
    model.train(was_training)
    return metric, results


def predicted(
    model: nn.Module, batch: Batch, form: Format, device: torch.device
) -> Iterator[tuple[Mapping[str, Tensor], ImageInfo]]:
    """What the model says of each image, with what `Format.to_file` needs to write it; several views of an image are merged.

    Args:
        model: In evaluation mode, on `device`.
        batch: As `form` made it.
        form: Of the data.
        device: Where to compute.
    """
    if not batch.files:
        yield from zip(model(batch.images.to(device), batch.sizes), batch.infos, strict=True)
        return
    assert isinstance(form, SeveralViews)
    for file, info in zip(batch.files, batch.infos, strict=True):
        seen = [(view, model(one.images.to(device), one.sizes)[0]) for view, one in form.views(file, info)]
        yield form.merged(seen, info)


def in_order(tables: Sequence[pa.Table], dataset: Dataset) -> pa.Table:
    """The tables of an evaluation's parts as one, images in the order of the data set, rows of an image as they were."""
    table = pa.concat_tables(tables)
    place = {info.image_id: index for index, info in enumerate(dataset.infos)}
    order = np.argsort([place[image_id] for image_id in table["image_id"].to_pylist()], kind="stable")
    return table.take(pa.array(order))


def _gathered(mine: Any, rank: int, world_size: int) -> list[Any]:
    """Every rank's, on rank 0; elsewhere only one's own."""
    if world_size == 1:
        return [mine]
    parts: list[Any] = [None] * world_size
    dist.gather_object(mine, parts if rank == 0 else None, dst=0)
    return parts if rank == 0 else [mine]


def _from_first(answer: bool, world_size: int) -> bool:
    """Rank 0's answer."""
    if world_size == 1:
        return answer
    answers = [answer]
    dist.broadcast_object_list(answers, src=0)
    return answers[0]
