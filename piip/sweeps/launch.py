"""Rows to Ray: plan, run every trial that is not done, watch, deliver to MLflow, sum up."""

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ray import tune

from piip import home
from piip.data.sources import Source
from piip.evaluation import pictures
from piip.ops.compiled import cpu
from piip.record.driving import PATIENCE_S, driving, who_drives
from piip.record.events import read_metrics, read_status
from piip.record.journal import Journal
from piip.spec import ExperimentSpec
from piip.sweeps import cluster, interrupt
from piip.sweeps.asha import asha, shared_score
from piip.sweeps.mount import keeps_locks_to_itself
from piip.sweeps.plan import Planned, plan_trials
from piip.sweeps.progress import Progress
from piip.sweeps.reasons import reason_of
from piip.sweeps.resources import Resources, concurrency
from piip.sweeps.worker import Launch, trial_driver
from piip.tracking.sender import Sender

log = logging.getLogger(__name__)

# A trial's driver takes no CPU: with 1 the drivers hold the cores that their own workers wait for, for ever on two cores;
# with 0.01 the last core is no longer whole and one trial at a time runs on two. Tune wants a resource: a thousandth of
# what every head node has one of.
DRIVER = {"cpu": 0, "node:__internal_head__": 0.001}


DELIVERY_S = 60.0
"""How long a sweep that is over waits for an MLflow that takes nothing."""


@dataclass(frozen=True)
class Sweep:
    """What to run and how."""

    specs: Sequence[ExperimentSpec]
    experiment: str
    resources: Resources = field(default_factory=Resources)
    concurrent: int | None = None
    """At most this many trials at once; None: as many as fit."""
    asha: bool = False
    """Stop the weak half of the trials at each evaluation (needs train.eval_every)."""
    fresh: bool = False
    """Begin finished and unfinished trials anew."""
    max_eval_images: int | None = None
    custom: Mapping[str, Source] = field(default_factory=dict)
    """Split -> files of a data set of the user's own."""
    command: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Tells this call from others of the same rows, that may run beside it."""


@dataclass(frozen=True)
class Outcome:
    """What a sweep came to."""

    planned: list[Planned]
    statuses: list[str]
    seconds: float
    share_outside_training: float | None
    """Part of the wall time (times trials at once) not spent in training steps; None where nothing was trained."""
    delivered: bool
    """Whether MLflow has everything; else `python -m piip.sync` delivers the rest."""
    interrupted: bool = False
    """Somebody pressed Ctrl-C: what is not finished goes on with the same command."""

    @property
    def failed(self) -> list[str]:
        """Names of the trials that did not finish."""
        return [p.trial.spec.name for p, status in zip(self.planned, self.statuses, strict=True) if status == "FAILED"]


def run_sweep(sweep: Sweep) -> Outcome:
    """Run every trial of `sweep` that has not finished yet.

    Repeating the call after a crash continues: a trial is known by its key (spec, code, data), takes up its last good
    checkpoint and its journal, and a finished one is not run again.

    Raises:
        ValueError: Bad data, trials that the cluster can never fit, or ASHA among trials of several scores or data; nothing was started.
    """
    began = time.monotonic()
    if why := keeps_locks_to_itself(home.home()):
        log.warning(
            "locks in PIIP_HOME=%s hold on this host alone (%s): run its sweeps from one host only", home.home(), why
        )
    if sweep.asha:
        shared_score(sweep.specs)
    parent_key, planned = plan_trials(
        sweep.specs, experiment=sweep.experiment, resources=sweep.resources, custom=sweep.custom,
        max_eval_images=sweep.max_eval_images, fresh=sweep.fresh, compared=sweep.asha,
    )  # fmt: skip
    # what ASHA stopped stays stopped as long as the sweep asks for ASHA
    done = {"FINISHED", "STOPPED"} if sweep.asha else {"FINISHED"}
    todo = [p for p in planned if p.status not in done]
    if len(todo) < len(planned):
        log.warning("%d of %d trials are finished already", len(planned) - len(todo), len(planned))
    spent = _train_seconds(todo)
    sender = Sender([parent_key, *(p.trial.key for p in planned)])
    sender.start()
    slots, problems, interrupted = 1, {}, False
    try:
        if todo:
            slots, problems, interrupted = _run(sweep, todo)
        statuses = [_settle(p, sweep, problems.get(p.trial.key, ""), interrupted=interrupted) for p in planned]
        _close_parent(parent_key, statuses)
        delivered = sender.flush(timeout=DELIVERY_S)
    finally:
        sender.stop()
    seconds = time.monotonic() - began
    trained = _train_seconds(todo) - spent
    outside = 1 - trained / (seconds * slots) if trained else None
    return Outcome(planned, statuses, seconds, outside, delivered, interrupted)


def _run(sweep: Sweep, todo: Sequence[Planned]) -> tuple[int, dict[str, str], bool]:
    """Run trials through Ray Tune; returns how many ran at once, why Tune gave up on some, by key, and whether somebody ended it."""
    cpu.load()  # once, here: workers then find the kernel compiled
    with cluster.connected() as joined:
        fits = concurrency(sweep.resources, joined.resources, cluster.node_resources())
        slots = min(fits, sweep.concurrent or fits, len(todo))
        log.warning(
            "%d trials, %d at once, %d worker(s) each, on %s",
            len(todo), slots, sweep.resources.workers, _describe(joined.resources),
        )  # fmt: skip
        with Progress(todo, command=sweep.command), interrupt.watched() as interrupted:
            results = _tuner(sweep, todo, slots).fit()
        if not interrupted.is_set():
            _keep_logs(joined, sweep, [p for p in todo if _failed(p)])
    # by folder: a trial that never reported has no config
    problems = {Path(r.path).name: reason_of(r.error) for r in results if r.error}
    return slots, problems, interrupted.is_set()


def _failed(planned: Planned) -> bool:
    """Whether it ended without a result, or never began."""
    return read_status(home.journal_dir(planned.trial.key)) in ("FAILED", "PENDING")


def _keep_logs(joined: cluster.Joined, sweep: Sweep, failed: Sequence[Planned]) -> None:
    """What the processes of failed trials wrote is worth a look: it stays, and is said, of each trial too."""
    if not failed:
        return
    logs = joined.keep_logs(home.home() / "logs" / f"{time.strftime('%Y-%m-%d_%H-%M')}_{sweep.command[:8]}")
    log.warning("Ray's logs of what failed: %s", logs)
    for planned in failed:
        folder = home.journal_dir(planned.trial.key)
        Journal(folder, attempt=f"driver-{uuid.uuid4()}", running=False).tag({"piip.logs": logs})


def _tuner(sweep: Sweep, todo: Sequence[Planned], slots: int) -> tune.Tuner:
    launches = {p.trial.key: Launch(p.trial, sweep.resources, sweep.command) for p in todo}
    trainable = tune.with_resources(tune.with_parameters(trial_driver, launches=launches), DRIVER)
    return tune.Tuner(
        trainable,
        param_space={"trial_key": tune.grid_search(list(launches))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=slots,
            scheduler=asha(shared_score(sweep.specs)) if sweep.asha else None,
            trial_dirname_creator=lambda t: t.config["trial_key"],
        ),
        run_config=tune.RunConfig(
            name=f"sweep-{sweep.command}",
            storage_path=str(home.storage() / "ray_tune"),
            failure_config=tune.FailureConfig(max_failures=2),
            verbose=0,
        ),
    )


def _describe(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{resources[name]:g} {name}" for name in ("CPU", "GPU") if resources.get(name))


def _settle(planned: Planned, sweep: Sweep, problem: str = "", *, interrupted: bool = False) -> str:
    """The trial's status once nothing of this sweep runs any more, and the pictures of its predictions.

    RUNNING where another command drives it, which then settles it. Of an interrupted sweep a trial that had begun is KILLED, one
    that had not stays PENDING: the next same command goes on with both.
    """
    folder = home.journal_dir(planned.trial.key)
    try:
        # this sweep's own driver may be dying yet
        with driving(folder, sweep.command, patience=PATIENCE_S):
            status = read_status(folder)
            if interrupted and not problem:
                if status == "RUNNING":
                    Journal(folder, attempt=f"driver-{uuid.uuid4()}").finish("KILLED")
            elif status in ("RUNNING", "PENDING") or (status == "FAILED" and problem):
                _close(planned, asha=sweep.asha, problem=problem)
            if status == "FINISHED":
                pictures.keep(planned.trial)
    except BlockingIOError:
        log.warning("%s is left to %s", planned.trial.spec.name, who_drives(folder) or "another command")
    return read_status(folder)


def _close(planned: Planned, *, asha: bool, problem: str) -> None:
    """Record the end of a trial that nobody trains any more."""
    folder = home.journal_dir(planned.trial.key)
    # its driver was stopped before the end: by ASHA, or for good after too many failures (with an earlier command's reason yet)
    stopped = asha and not problem and planned.trial.score.name in read_metrics(folder)
    journal = Journal(folder, attempt=f"driver-{uuid.uuid4()}")
    if not stopped:
        journal.tag({"piip.failure": f"its driver died too often: {problem or 'see the Ray logs'}"})
    journal.finish("STOPPED" if stopped else "FAILED")


def _close_parent(parent_key: str, statuses: Sequence[str]) -> None:
    journal = Journal(home.journal_dir(parent_key), attempt=f"driver-{uuid.uuid4()}")
    unfinished = {"KILLED", "PENDING"} & set(statuses)
    journal.finish("FAILED" if "FAILED" in statuses else "KILLED" if unfinished else "FINISHED")


def _train_seconds(todo: Sequence[Planned]) -> float:
    """Seconds in training steps so far, of all commands that worked on these trials."""
    histories = [read_metrics(home.journal_dir(p.trial.key)).get("time/train_seconds", []) for p in todo]
    return sum(history[-1][1] for history in histories if history)
