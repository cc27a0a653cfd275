"""A split scored by Ray workers: each predicts and matches its images, the states of their metrics merge here."""

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError
from ray.util import ActorPool

from piip.contracts import Dataset
from piip.data.sources import Source
from piip.ops.compiled import cpu
from piip.spec import ExperimentSpec
from piip.sweeps import cluster
from piip.sweeps.reasons import reason_of
from piip.sweeps.resources import Resources, concurrency
from piip.training.checkpoint import Checkpoint
from piip.training.evaluate import Evaluation, by_class, in_order

PARTS_PER_WORKER = 8
"""A worker takes the next part when it is done: a slow one holds up the others by an eighth of its share, and progress is seen."""


@dataclass(frozen=True)
class Job:
    """What a worker scores; plain values, so that it travels."""

    spec: ExperimentSpec
    checkpoint: Checkpoint
    """On storage that every node mounts."""
    source: Source
    max_images: int
    num_threads: int


class Scorer:
    """A worker: the network and the split, opened once."""

    def __init__(self, job: Job):
        # here, not above: the driver's command line does not wait for the network's code
        import torch

        from piip.data import open_dataset
        from piip.evaluation.rebuild import network_of
        from piip.evaluation.score import device

        torch.set_num_threads(job.num_threads)
        self.model = network_of(job.spec, job.checkpoint).to(device())
        self.data = open_dataset(job.spec.data, job.source, job.spec.model.input, max_images=job.max_images)

    def part(self, number: int, parts: int) -> tuple[Any, pa.Table, int]:
        """The state of the metric that saw every `parts`-th image from `number` on, their results, and how many they are."""
        from piip.training.evaluate import score

        metric, results = score(self.model, self.data, rank=number, world_size=parts)
        return metric.state(), self.data.to_table(results), len(results)


def evaluate_on_ray(
    spec: ExperimentSpec,
    checkpoint: Checkpoint,
    data: Dataset,
    resources: Resources,
    *,
    progress: Callable[[int, int], None],
) -> Evaluation:
    """The numbers of `piip.training.evaluate.evaluate`, to the bit, and its results, in the data set's order.

    Args:
        spec: Of the run.
        checkpoint: Its weights.
        data: The split; workers open its files themselves.
        resources: Workers, and what each takes.
        progress: Hears (done, all) images.

    Raises:
        ValueError: The cluster has no room for so many workers, or one of them failed: why.
    """
    cpu.load()  # once, here: workers then find the kernel compiled
    # Ray tells of workers that died on stdout, which is for results
    with redirect_stdout(sys.stderr):
        try:
            with cluster.connected() as joined:
                concurrency(resources, joined.resources, cluster.node_resources())
                job = Job(spec, checkpoint, data.source, len(data), resources.cpus_per_worker)
                return _evaluated(job, data, resources, progress)
        except RayError as error:
            raise ValueError(f"a worker failed: {reason_of(error)}") from error


def _evaluated(job: Job, data: Dataset, resources: Resources, progress: Callable[[int, int], None]) -> Evaluation:
    options = {"num_cpus": resources.cpus_per_worker, "num_gpus": resources.gpus_per_worker}
    workers = [ray.remote(Scorer).options(**options).remote(job) for _ in range(resources.workers)]
    parts = min(len(data), PARTS_PER_WORKER * resources.workers)
    states, tables, done = [], [], 0
    pool = ActorPool(workers)
    for state, table, count in pool.map_unordered(
        lambda worker, part: worker.part.remote(part, parts), [*range(parts)]
    ):
        states.append(state)
        tables.append(table)
        done += count
        progress(done, len(data))
    metric = data.metric()
    metric.merge(states)
    return Evaluation(metric.compute(), in_order(tables, data), by_class(metric, data))
