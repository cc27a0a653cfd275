"""One trial on one worker: build, resume, train, evaluate, record. Ray calls it; a test can call it without Ray."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist

from piip import home
from piip.data import open_dataset
from piip.data.loader import TrainLoader
from piip.models import build_model
from piip.models.backbones.cnn import CNN
from piip.models.backbones.piip import PIIP
from piip.models.speed import set_speed
from piip.record.journal import Journal
from piip.record.trial import Trial
from piip.training import checkpoint, loop, machine
from piip.training.checkpoint import Manifest
from piip.training.engines import build_engine
from piip.training.evaluate import evaluate
from piip.training.optim import build_optimizer
from piip.training.start import start_from

log = logging.getLogger(__name__)

SCORE = "coco/box_ap"
"""The metric that makes a checkpoint the best one."""


def run(trial: Trial, *, rank: int, world_size: int, report: Callable[[dict[str, float]], None]) -> None:
    """Train `trial` to its end from wherever it was left. Collective over an initialised process group.

    Args:
        trial: The same on every rank.
        rank: Of this worker.
        world_size: Number of workers.
        report: Told the metrics of every evaluation, on every rank (empty except on rank 0).
    """
    run_ = _Run(trial, rank, world_size, report)
    run_.train()
    run_.finish()


class _Run:
    """The state one worker holds while it trains a trial."""

    def __init__(self, trial: Trial, rank: int, world_size: int, report: Callable[[dict[str, float]], None]):
        self.began = time.time()
        self.trial, self.spec, self.rank, self.world_size, self.report = trial, trial.spec, rank, world_size, report
        self.root = home.checkpoint_dir(trial.key)
        self.root.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(home.journal_dir(trial.key), attempt=_attempt()) if rank == 0 else None
        self._doing("reading the annotations")
        wanted = self.spec.model.backbone.input
        self.train_data = open_dataset(self.spec.data, trial.sources["train"], wanted, training=True)
        self.val_data = open_dataset(
            self.spec.data, trial.sources["val"], wanted, training=False, max_images=trial.max_eval_images
        )
        self.loader = TrainLoader(
            self.train_data, batch_size=self.spec.train.batch_size, micro_batch=self.spec.train.micro_batch,
            rank=rank, world_size=world_size, seed=self.spec.train.seed, num_threads=torch.get_num_threads(),
        )  # fmt: skip

        torch.manual_seed(self.spec.train.seed)
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        # weights that a checkpoint, or the whole network's, will replace need not be fetched
        kept = checkpoint.last(self.root)
        self._doing("building the network")
        model = build_model(self.spec.model, pretrained=kept is None and self.spec.model.weights is None)
        if kept is None:
            if self.spec.model.weights:
                self._doing(f"reading {self.spec.model.weights}")
            start_from(model, self.spec.model, [category["name"] for category in self.train_data.classes])
        model = model.to(device)
        set_speed(model, self.spec.speed, precision=self.spec.train.precision)
        assert isinstance(model.backbone, PIIP | CNN)
        distances = model.backbone.layer_ids(exact=self.spec.optim.groups == "corrected")
        optimizer = build_optimizer(model, self.spec.optim, {f"backbone.{n}": d for n, d in distances.items()})
        self._doing(f"starting {self.spec.train.engine}")
        self.engine = build_engine(
            self.spec, model, optimizer, micro_batch=self.loader.micro_batch, accumulate=self.loader.accumulate
        )
        self.start = 0
        if kept:
            self._doing(f"reading the checkpoint of step {kept.manifest.step}")
            self.engine.load(kept)
            self.start = kept.manifest.step
            if rank == 0:
                log.warning("resuming %s from step %d", self.spec.name, self.start)
        self.plan = loop.plan(self.spec, self.loader.steps_per_epoch)
        before = self._spent_before(kept.manifest) if kept else {}
        self.train_timer = loop.Timer(before.get("time/train_seconds", 0.0))
        self.eval_timer = loop.Timer(before.get("time/eval_seconds", 0.0))
        self.worker_seconds = before.get("time/worker_seconds", 0.0)
        self.peak_memory_gb = before.get("cost/peak_memory_gb", 0.0)
        if self.journal:
            ran = machine.tags(self.spec, self.engine.name, device, world_size)
            self.journal.tag(ran)
            if device.type == "cuda":
                log.warning("on %s: attention %s, kernel %s", device, ran["piip.attention"], ran["piip.kernel"])

    def train(self) -> None:
        """Run the loop; an evaluation that a crash cut off after its checkpoint is made up for first."""
        done = self.start
        if done and (done % self.plan.eval_every == 0 or done == self.plan.num_steps) and self._unscored(done):
            self.evaluate(done)
        self.engine.module.train()
        self._doing("taking its first steps")
        loop.train(
            self.spec, self.engine, self.loader.batches_from(done), self.plan,
            start=done, timer=self.train_timer, log=self.log, evaluate=self.evaluate, save=self.save,
        )  # fmt: skip

    def _doing(self, what: str) -> None:
        """Announces what takes time before the first step."""
        if self.journal:
            self.journal.doing(what)

    def _unscored(self, step: int) -> bool:
        """Whether the evaluation of `step` is missing; every rank gets rank 0's answer."""
        missing = self.journal is not None and step not in {s for s, _ in self.journal.history(SCORE)}
        if self.world_size > 1:
            answer = [missing]
            dist.broadcast_object_list(answer, src=0)
            (missing,) = answer
        return missing

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """To the journal; it never waits for a network."""
        if self.journal:
            self.journal.log(step, metrics)

    def save(self, step: int) -> None:
        """A checkpoint of `step`, and the oldest ones deleted. Collective."""
        if self.journal:
            # raises in an attempt that has been replaced: it must not write checkpoints either
            self.journal.tag({"piip.checkpoint": str(self.root)})
        weights = self.engine.model_state()
        _check_finite(weights, step)
        manifest = Manifest(
            step, self.trial.key, self.world_size, self.engine.name, self.train_data.classes, self._spent()
        )
        checkpoint.save(
            self.root, manifest, model=weights, state=self.engine.optimizer_state(),
            rank=self.rank, barrier=dist.barrier if self.world_size > 1 else lambda: None,
        )  # fmt: skip
        if self.rank == 0:
            checkpoint.prune(self.root, self.spec.train.keep)

    def evaluate(self, step: int) -> None:
        """Score the validation split, record it, remember the best, tell the sweep. Collective."""
        with self.eval_timer:
            metrics, results = evaluate(
                self.engine.eval_model(), self.val_data, rank=self.rank, world_size=self.world_size
            )
        if self.journal:
            predictions = self.journal.folder / "predictions.json"
            predictions.write_text(json.dumps(results))
            self.journal.artifact(predictions, "predictions/val.json")
            # the score last: where it is missing, a resumed trial evaluates again
            self.journal.log(step, self._best(step, metrics) | self._spent() | self._mean_speed(step) | metrics)
        self.report(metrics | {"step": float(step)})

    def _best(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
        """`best/...` so far; the checkpoint of a new best score is kept."""
        if SCORE not in metrics:  # a split without objects
            return {}
        best = checkpoint.best_mark(self.root)
        # `step` is the best already where a crash came between the mark and the journal
        if best is None or metrics[SCORE] > best[1] or step == best[0]:
            checkpoint.mark_best(self.root, step, metrics[SCORE])
            return {f"best/{name}": value for name, value in metrics.items()}
        return {}

    def _spent(self) -> dict[str, float]:
        """What the trial took so far, over all attempts: the steps that count, not those a crash lost."""
        return {
            "time/train_seconds": self.train_timer.seconds,
            "time/eval_seconds": self.eval_timer.seconds,
            "time/worker_seconds": self.worker_seconds + time.time() - self.began,
            "cost/peak_memory_gb": max(self.peak_memory_gb, machine.peak_memory_gb()),
        }

    def _mean_speed(self, step: int) -> dict[str, float]:
        """Images/s in training steps over all attempts, where the last logged value is of a few steps."""
        return {"train/images_per_second_mean": step * self.spec.train.batch_size / self.train_timer.seconds}

    def _spent_before(self, manifest: Manifest) -> dict[str, float]:
        """`_spent` of the attempts before: as the checkpoint says, or the journal, which knows the evaluation after it too."""
        if not self.journal:
            return {}
        recorded = {name: dict(self.journal.history(name)).get(manifest.step) for name in manifest.spent}
        return manifest.spent | {name: value for name, value in recorded.items() if value is not None}

    def finish(self) -> None:
        """Close the trial's journal."""
        if self.journal:
            self.journal.finish("FINISHED")


def _check_finite(weights: Mapping[str, torch.Tensor], step: int) -> None:
    """A gradient can overflow under a finite loss; a trial must not resume from what it leaves."""
    bad = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise FloatingPointError(
            f"{len(bad)} weights are not finite at step {step}: {bad[:3]}. No checkpoint of it is kept. "
            "Lower optim.lr or set optim.clip_norm."
        )


def _attempt() -> str:
    """Orders the attempts at one trial in time; a later one fences an earlier one's writes."""
    return f"{time.time_ns():020d}-{os.getpid()}"
