"""What a person sees while trials run: one line per trial now and then, read from the journals."""

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Self, TextIO

from piip import home
from piip.record.journal import read_doing, read_metrics, read_status
from piip.sweeps.plan import Planned
from piip.tracking.store import age
from piip.training.loop import Plan

EARLY = 0.05
"""Part of the sweep before which nothing is said of the time it will take: Ray is still starting workers."""


@dataclass(frozen=True)
class State:
    """What a trial's journal says."""

    metrics: dict[str, list[tuple[int, float, int]]]
    """Name -> (step, value, timestamp in ms)."""
    status: str
    doing: str = ""
    """What it is at, or was, before its next step."""

    @classmethod
    def of(cls, planned: Planned) -> Self:
        """As the journal is now."""
        folder = home.journal_dir(planned.trial.key)
        return cls(read_metrics(folder), read_status(folder), read_doing(folder))

    @property
    def step(self) -> int:
        """The last one logged; 0 before."""
        return self.metrics["train/loss"][-1][0] if "train/loss" in self.metrics else 0


class Progress:
    """Prints `trial  step  loss  images/s  ETA  sweep ETA` for every trial that moves, before that what it is at, and its end."""

    def __init__(self, planned: Sequence[Planned], *, every: float = 5.0, out: TextIO | None = None):
        """Watch the trials of `planned`; look every `every` seconds; print to `out` (stderr)."""
        self._planned = planned
        self._every, self._out = every, out or sys.stderr
        self._stop = threading.Event()
        self._began = time.monotonic()
        # by earlier commands: it is no news, and says nothing of this one's pace
        self._past = [read_status(home.journal_dir(p.trial.key)) for p in planned]
        self._seen = self._now()
        self._before = [seen.step for seen in self._seen]
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
        trials = self._now()
        left = self._left(trials)
        for number, (planned, before, now) in enumerate(zip(self._planned, self._seen, trials, strict=True), start=1):
            said = news(before, now, planned.plan)
            if said:
                print(
                    f"[{self._clock()}] {number}/{len(self._planned)} {planned.trial.spec.name}  {said}{left}",
                    file=self._out,
                    flush=True,
                )
        self._seen = trials

    def _now(self) -> list[State]:
        """All trials; one that an earlier command ended (failed, say) waits for its turn until its status moves."""
        trials = [State.of(p) for p in self._planned]
        for i, now in enumerate(trials):
            if now.status == self._past[i] != "RUNNING":
                trials[i] = replace(now, status="PENDING")
            else:
                self._past[i] = "RUNNING"  # by this command
        return trials

    def _left(self, trials: Sequence[State]) -> str:
        """How long the sweep will still take: FLOPs left at the pace so far, evaluations included; empty where nobody can know."""
        done = left = 0.0
        for planned, before, now in zip(self._planned, self._before, trials, strict=True):
            weight = planned.cost.gflops * planned.trial.spec.train.batch_size
            done += weight * max(0, now.step - before)
            left += weight * (planned.plan.num_steps - now.step) if now.status in ("PENDING", "RUNNING") else 0.0
        if not left or done < EARLY * (done + left):
            return ""
        seconds = (time.monotonic() - self._began) * left / done
        return f"  sweep ETA {age(round(1000 * seconds))}"

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        return f"{minutes:02d}:{seconds:02d}"


def news(before: State, now: State, plan: Plan) -> str:
    """What there is to say of a trial since the last look; empty where nothing moved."""
    if now.status == "RUNNING" and now.step == before.step:
        return now.doing if now.doing != before.doing else ""
    return line(now, plan) if (now.step, now.status) != (before.step, before.status) else ""


def line(now: State, plan: Plan) -> str:
    """One trial in one line."""
    step, scores = now.step, now.metrics.get("coco/box_ap", [])
    score = f"  box AP {scores[-1][1]:.3f}" if scores else ""
    if now.status != "RUNNING":
        return f"{now.status.lower()} at step {step}{score}"
    loss, rate = now.metrics["train/loss"][-1][1], now.metrics["train/images_per_second"][-1][1]
    at = f"step {step}/{plan.num_steps}  loss {loss:.3f}  {rate:.1f} img/s"
    if (step == plan.num_steps or step % plan.eval_every == 0) and step not in {s for s, _, _ in scores}:
        return f"{at}  evaluating{score}"
    # the median over the last entries: neither evaluations, nor start-up, nor the pause after a crash; one entry has no pace
    recent = now.metrics["train/loss"][-10:]
    paces = [(later[2] - entry[2]) / 1000 / (later[0] - entry[0]) for entry, later in pairwise(recent)]
    eta = f"  ETA {(plan.num_steps - step) * median(paces):.0f} s" if paces else ""
    return f"{at}{eta}{score}"
