"""What runs on Ray: a trial's driver (a Tune function) and its workers (Ray Train)."""

import logging
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray import train as ray_train
from ray import tune
from ray.train.torch import TorchTrainer

from piip import home
from piip.record.driving import driving
from piip.record.events import read_metrics, read_status
from piip.record.journal import Journal
from piip.record.trial import Trial
from piip.sweeps import cluster
from piip.sweeps.reasons import reason_of
from piip.sweeps.resources import Resources

log = logging.getLogger(__name__)

# The spec's own mistakes: running again would only repeat them
FINAL_ERRORS = (ValueError, FloatingPointError)


@dataclass(frozen=True)
class Launch:
    """One trial and what it may take."""

    trial: Trial
    resources: Resources
    command: str
    """The name of the sweep's call that starts it; every call has its own (see `piip.record.driving`)."""
    max_failures: int = 3


def train_worker(config: dict[str, Any]) -> None:
    """One Ray Train worker: `piip.training.run.run` in a process group that Ray made."""
    # here, not above: a trial's driver and its controller import this file too, and need no network (3 s of CPU each)
    from piip.training.run import run

    warnings.filterwarnings("ignore", category=FutureWarning)
    launch: Launch = config["launch"]
    if read_status(home.journal_dir(launch.trial.key)) == "FAILED":
        return  # for good, said a worker before Ray started this one
    context = ray_train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(launch.resources.cpus_per_worker)
    nodes = _nodes(world_size)
    if rank == 0:
        where = {"hardware.nodes": str(len(set(nodes))), "hardware.node_ids": ",".join(nodes)}
        _journal(launch.trial.key, running=False).tag(where)
    try:
        run(
            launch.trial,
            rank=rank,
            world_size=world_size,
            report=ray_train.report,
            loader_processes=launch.resources.loader_processes,
        )
    except FINAL_ERRORS as error:
        log.exception("trial %s failed", launch.trial.spec.name)
        _fail(launch.trial.key, reason_of(error))
        if world_size > 1:
            raise  # Ray ends the others too, who may be waiting for this one in a collective


def _nodes(world_size: int) -> list[str]:
    """The Ray node of every rank. Collective."""
    mine: Any = ray.get_runtime_context().get_node_id()
    nodes: list[Any] = [mine] * world_size
    if world_size > 1:
        dist.all_gather_object(nodes, mine)
    return nodes


def trial_driver(config: dict[str, Any], launches: Mapping[str, Launch]) -> None:
    """One trial under Tune: start its workers, hand their metrics on, and finish with what the journal says.

    Where another command drives the trial, this one waits until that is done, or dead, and takes what it left.
    """
    launch = launches[config["trial_key"]]
    folder = home.journal_dir(launch.trial.key)
    with driving(folder, launch.command):
        if read_status(folder) != "FINISHED":
            _train(launch)
    # the journal, not Ray's result: after a crash Ray's is stale
    final = {name: history[-1][1] for name, history in read_metrics(folder).items() if history}
    tune.report({"status": read_status(folder), **final})


def _train(launch: Launch) -> None:
    """The workers of a trial, to its end; what ended it otherwise is in the journal."""
    key, workers = launch.trial.key, launch.resources.workers
    cluster.remove_left_placement_groups()  # of this trial's driver before, where it was killed
    # RUNNING from here on, also where an earlier command had left it FAILED
    failed = read_status(home.journal_dir(key)) == "FAILED"
    journal = _journal(key)
    journal.tag({"piip.failure": ""} if failed else {})
    journal.doing("starting its worker" if workers == 1 else f"starting {workers} workers")
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"launch": launch},
        scaling_config=ray_train.ScalingConfig(
            num_workers=workers,
            use_gpu=launch.resources.gpus_per_worker > 0,
            resources_per_worker=_per_worker(launch.resources),
        ),
        run_config=ray_train.RunConfig(
            name=key,
            storage_path=str(home.storage() / "ray_train"),
            failure_config=ray_train.FailureConfig(max_failures=launch.max_failures, controller_failure_limit=3),
            callbacks=[_report_to_tune()],
            logging_config=ray_train.LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        trainer.fit()
    except (ray_train.TrainingFailedError, ray_train.ControllerError) as error:
        _fail(key, reason_of(error))


def _per_worker(resources: Resources) -> dict[str, float]:
    need: dict[str, float] = {"CPU": resources.cpus_per_worker}
    return need | ({"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {})


def _report_to_tune() -> Any:
    from ray.tune.integration.ray_train import TuneReportCallback

    return TuneReportCallback()


def _journal(key: str, *, running: bool = True) -> Journal:
    return Journal(home.journal_dir(key), attempt=f"driver-{uuid.uuid4()}", running=running)


def _fail(key: str, reason: str) -> None:
    """Close a trial's journal as failed, with the reason as a tag."""
    journal = _journal(key)
    journal.tag({"piip.failure": reason})
    journal.finish("FAILED")
