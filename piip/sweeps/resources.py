"""What a trial takes from the cluster, and how many trials fit at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What one trial takes from the cluster."""

    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: int = 0
    loader_processes: int = 0
    """Processes that load images for each worker; 0: threads do, as many as `cpus_per_worker`. No number depends on it."""

    @property
    def per_trial(self) -> dict[str, float]:
        """Ray's names for it."""
        need = {"CPU": float(self.workers * self.cpus_per_worker), "GPU": float(self.workers * self.gpus_per_worker)}
        return {name: amount for name, amount in need.items() if amount}


def loading_processes(cpus_per_worker: int, gpus_per_worker: int) -> int:
    """Processes that load images for a worker of so many cores, where nobody says how many.

    Threads share the lock with the thread that drives the GPU and are enough for a core or two; on the CPU a step takes a hundred times
    as long as its images (experiments/benchmarks/RESULTS.md, the data loader).
    """
    return cpus_per_worker - 1 if gpus_per_worker and cpus_per_worker > 2 else 0


def concurrency(resources: Resources, cluster: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> int:
    """Trials that fit at once, each with all its workers.

    Raises:
        ValueError: Not even one ever fits (Ray would wait for it without end).
    """
    need = resources.per_trial
    short = {name: amount for name, amount in need.items() if cluster.get(name, 0) < amount}
    if short:
        have = ", ".join(f"{cluster.get(name, 0):g} {name}" for name in short)
        wanted = ", ".join(f"{amount:g} {name}" for name, amount in short.items())
        raise ValueError(
            f"a trial of {resources.workers} workers needs {wanted}, the cluster has {have}. Use fewer --workers, or add nodes."
        )
    worker = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    slots = sum(int(min(node.get(name, 0) // amount for name, amount in worker.items() if amount)) for node in nodes)
    if slots < resources.workers:
        raise ValueError(
            f"a worker needs {worker} on one node; only {slots} such places exist and a trial has {resources.workers} workers."
        )
    return slots // resources.workers
