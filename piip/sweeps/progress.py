"""What a person sees while trials run: one line per trial now and then, read from the journals."""

import sys
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import TextIO

from piip import home
from piip.sweeps.plan import Planned
from piip.tracking.store import age
from piip.training.journal import read_metrics, read_status
from piip.training.loop import Plan

Metrics = dict[str, list[tuple[int, float, int]]]
"""Of one journal: name -> (step, value, timestamp in ms)."""
EARLY = 0.05
"""Part of the sweep before which nothing is said of the time it will take: Ray is still starting workers."""


class Progress:
    """Prints `trial  step  loss  images/s  ETA  sweep ETA` for every trial that moves, and a line when one ends."""

    def __init__(self, planned: Sequence[Planned], *, every: float = 5.0, out: TextIO | None = None):
        """Watch the trials of `planned`; look every `every` seconds; print to `out` (stderr)."""
        self._planned = planned
        self._every, self._out = every, out or sys.stderr
        self._seen: dict[str, tuple[int, str]] = {}
        self._stop = threading.Event()
        self._began = time.monotonic()
        # done by earlier commands: it says nothing of this one's pace
        self._before = [_step(read_metrics(home.journal_dir(p.trial.key))) for p in planned]
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self._look()

    def _look(self) -> None:
        folders = [home.journal_dir(p.trial.key) for p in self._planned]
        trials = [(read_metrics(folder), read_status(folder)) for folder in folders]
        left = self._left(trials)
        for number, (planned, (metrics, status)) in enumerate(zip(self._planned, trials, strict=True), start=1):
            trial, step = planned.trial, _step(metrics)
            if self._seen.get(trial.key, (0, "PENDING")) == (step, status) or (step == 0 and status == "RUNNING"):
                continue
            first_look = (
                trial.key not in self._seen and status == "FINISHED" and time.monotonic() - self._began < self._every
            )
            self._seen[trial.key] = (step, status)
            if not first_look:
                print(
                    f"[{self._clock()}] {number}/{len(self._planned)} {trial.spec.name}  "
                    f"{line(metrics, status, planned.plan)}{left}",
                    file=self._out,
                    flush=True,
                )

    def _left(self, trials: Sequence[tuple[Metrics, str]]) -> str:
        """How long the sweep will still take: FLOPs left at the pace so far, evaluations included; empty where nobody can know."""
        done = left = 0.0
        for planned, before, (metrics, status) in zip(self._planned, self._before, trials, strict=True):
            weight, step = planned.cost.gflops * planned.trial.spec.train.batch_size, _step(metrics)
            done += weight * max(0, step - before)
            left += weight * (planned.plan.num_steps - step) if status in ("PENDING", "RUNNING") else 0.0
        if not left or done < EARLY * (done + left):
            return ""
        seconds = (time.monotonic() - self._began) * left / done
        return f"  sweep ETA {age(round(1000 * seconds))}"

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        return f"{minutes:02d}:{seconds:02d}"


def _step(metrics: Metrics) -> int:
    """The last step a journal knows."""
    return metrics["train/loss"][-1][0] if "train/loss" in metrics else 0


def line(metrics: Metrics, status: str, plan: Plan) -> str:
    """One trial in one line."""
    step, scores = _step(metrics), metrics.get("coco/box_ap", [])
    score = f"  box AP {scores[-1][1]:.3f}" if scores else ""
    if status != "RUNNING":
        return f"{status.lower()} at step {step}{score}"
    loss, rate = metrics["train/loss"][-1][1], metrics["train/images_per_second"][-1][1]
    now = f"step {step}/{plan.num_steps}  loss {loss:.3f}  {rate:.1f} img/s"
    if (step == plan.num_steps or step % plan.eval_every == 0) and step not in {s for s, _, _ in scores}:
        return f"{now}  evaluating{score}"
    # the median over the last entries: neither evaluations, nor start-up, nor the pause after a crash
    recent = metrics["train/loss"][-10:]
    paces = [(later[2] - entry[2]) / 1000 / (later[0] - entry[0]) for entry, later in pairwise(recent)]
    per_step = median(paces) if paces else 0.0
    eta = f"{(plan.num_steps - step) * per_step:.0f} s" if per_step else "-"
    return f"{now}  ETA {eta}{score}"
