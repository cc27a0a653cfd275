"""The training loop, whole: everything rare is an `if` in view. It knows neither Ray nor MLflow."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from piip.data.loader import Batch
from piip.spec import ExperimentSpec
from piip.training.engines import Engine
from piip.training.optim import set_lr


@dataclass(frozen=True)
class Plan:
    """When the loop stops and what it does on the way, in optimizer steps."""

    num_steps: int
    eval_every: int
    save_every: int
    log_every: int


SAVE_EVERY = 250
"""Steps a run of fixed steps, which has no epochs to save after, may lose."""


class Timer:
    """Seconds spent inside `with timer:`, added up."""

    def __init__(self, seconds: float = 0.0) -> None:
        """Counts on from `seconds`."""
        self.seconds = seconds
        self._since = 0.0

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._since


class StepLosses:
    """Averages the loss parts of a step over its micro batches and over ranks. The one synchronisation of a step.

    From a GPU they set out with the last forward pass and are waited for after the backward pass has been queued: the GPU is never
    without work, and the numbers are there before the weights change.
    """

    def __init__(self, micro_batches: int) -> None:
        """Starts a step of so many micro batches."""
        self._totals: dict[str, Tensor] = {}
        self._micro_batches = self._missing = micro_batches

    def add(self, losses: dict[str, Tensor]) -> None:
        """Adds a micro batch's losses, before its backward pass. The last one's call is collective."""
        for name, loss in losses.items():
            self._totals[name] = self._totals.get(name, 0) + loss.detach() / self._micro_batches
        self._missing -= 1
        if not self._missing:
            self._send()

    def _send(self) -> None:
        values = torch.stack([v.float() for v in self._totals.values()])
        if dist.get_world_size() > 1:
            dist.all_reduce(values)
            values /= dist.get_world_size()
        self._sent = values.to("cpu", non_blocking=True)
        self._arrival = torch.cuda.current_stream().record_event() if values.is_cuda else None

    def means(self) -> dict[str, float]:
        """Waits for the numbers, where they are not there yet."""
        assert not self._missing
        if self._arrival:
            self._arrival.synchronize()
        return dict(zip(self._totals, self._sent.tolist(), strict=True))


def plan(spec: ExperimentSpec, steps_per_epoch: int) -> Plan:
    """The spec's epochs and intervals in steps."""
    train = spec.train
    num_steps = train.steps or max(1, math.ceil(train.epochs * steps_per_epoch))
    # without an interval: after every epoch on long runs; a run of fixed steps evaluates at its end
    eval_every = train.eval_every or (num_steps if train.steps else steps_per_epoch)
    save_every = train.save_every or (min(SAVE_EVERY, eval_every) if train.steps else eval_every)
    return Plan(num_steps, eval_every, save_every, train.log_every)


def train(
    spec: ExperimentSpec,
    engine: Engine,
    batches: Iterator[Batch],
    plan: Plan,
    *,
    start: int,
    timer: Timer,
    log: Callable[[int, dict[str, float]], None],
    evaluate: Callable[[int], None],
    save: Callable[[int], None],
) -> None:
    """Train from step `start` (already done) to the plan's end.

    Args:
        spec: Batch size, schedule, seed.
        engine: Takes the steps; its model is in training mode.
        batches: Micro batches from step `start` on, `engine.accumulate` per step.
        plan: Stop and intervals.
        start: Optimizer steps already done; at the end already, nothing happens.
        timer: Runs during training steps, waiting for data included; not while logging, saving or evaluating.
        log: Gets (step, metrics) on every rank, already averaged over ranks.
        evaluate: Called after a checkpoint of the step has been saved.
        save: Saves a checkpoint.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    logged_step, logged_seconds = start, timer.seconds
    for step in range(start + 1, plan.num_steps + 1):
        with timer:
            # a step's randomness is a function of (seed, step, rank): resuming needs no saved generator
            torch.manual_seed(spec.train.seed * 1_000_003 + step * 1_009 + dist.get_rank())
            lr = set_lr(engine.optimizer, spec.rates, step, plan.num_steps)

            # one optimizer step = `accumulate` micro batches
            parts = StepLosses(engine.accumulate)
            for _ in range(engine.accumulate):
                batch = next(batches).to(engine.device)
                losses = engine(batch.images, batch.sizes, batch.targets)
                parts.add(losses)
                engine.backward(torch.stack(list(losses.values())).sum())
            means = parts.means()
            _check_finite(means, step)
            engine.step()
            if engine.average:
                engine.average.update(step)

        # now and then: log
        if step % plan.log_every == 0 or step == plan.num_steps:
            images = (step - logged_step) * spec.train.batch_size
            metrics = {f"train/{name}": value for name, value in means.items()}
            metrics |= {
                "train/loss": sum(means.values()),
                "train/lr": lr,
                "train/images_per_second": images / (timer.seconds - logged_seconds),
            }
            log(step, metrics)
            logged_step, logged_seconds = step, timer.seconds

        # rarely: save and evaluate, always at the end
        if step % plan.save_every == 0 or step % plan.eval_every == 0 or step == plan.num_steps:
            save(step)
        if step % plan.eval_every == 0 or step == plan.num_steps:
            evaluate(step)


def _check_finite(losses: dict[str, float], step: int) -> None:
    """ZeRO skips a NaN step silently, stage 0 poisons the weights: one policy for all, before the update."""
    if not all(map(math.isfinite, losses.values())):
        parts = ", ".join(f"{name}={value:.3g}" for name, value in losses.items())
        raise FloatingPointError(f"loss is not finite at step {step}: {parts}. Lower optim.lr or set optim.clip_norm.")
