"""What a person sees while trials run: one line per trial now and then, read from the journals."""

import sys
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import TextIO

from piip import home
from piip.training.journal import read_metrics, read_status
from piip.training.trial import Trial


class Progress:
    """Prints `trial  step  loss  images/s  ETA` for every trial that moves, and a line when one ends."""

    def __init__(
        self, trials: Sequence[Trial], num_steps: Sequence[int], *, every: float = 5.0, out: TextIO = sys.stderr
    ):
        """Watch `trials`, which run for `num_steps` each; look every `every` seconds."""
        self._trials = list(zip(trials, num_steps, strict=True))
        self._every, self._out = every, out
        self._seen: dict[str, tuple[int, str]] = {}
        self._stop = threading.Event()
        self._began = time.monotonic()
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
        for number, (trial, steps) in enumerate(self._trials, start=1):
            folder = home.journal_dir(trial.key)
            metrics, status = read_metrics(folder), read_status(folder)
            step = metrics["train/loss"][-1][0] if "train/loss" in metrics else 0
            if self._seen.get(trial.key, (0, "PENDING")) == (step, status) or (step == 0 and status == "RUNNING"):
                continue
            first_look = (
                trial.key not in self._seen and status == "FINISHED" and time.monotonic() - self._began < self._every
            )
            self._seen[trial.key] = (step, status)
            if not first_look:
                print(
                    f"[{self._clock()}] {number}/{len(self._trials)} {trial.spec.name}  {line(metrics, status, step, steps)}",
                    file=self._out,
                    flush=True,
                )

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        return f"{minutes:02d}:{seconds:02d}"


def line(metrics: dict[str, list[tuple[int, float, int]]], status: str, step: int, steps: int) -> str:
    """One trial in one line."""
    score = f"  box AP {metrics['coco/box_ap'][-1][1]:.3f}" if "coco/box_ap" in metrics else ""
    if status != "RUNNING":
        return f"{status.lower()} at step {step}{score}"
    loss, rate = metrics["train/loss"][-1][1], metrics["train/images_per_second"][-1][1]
    # the median over the last entries: neither evaluations, nor start-up, nor the pause after a crash
    recent = metrics["train/loss"][-10:]
    paces = [(later[2] - entry[2]) / 1000 / (later[0] - entry[0]) for entry, later in pairwise(recent)]
    per_step = median(paces) if paces else 0.0
    eta = f"{(steps - step) * per_step:.0f} s" if per_step else "-"
    return f"step {step}/{steps}  loss {loss:.3f}  {rate:.1f} img/s  ETA {eta}{score}"
