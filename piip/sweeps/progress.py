"""What a person sees while trials run: one line per trial now and then, read from the journals."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from statistics import median
from typing import Self, TextIO

from piip import home
from piip.contracts import Score
from piip.record.driving import who_drives
from piip.record.follow import Follower
from piip.sweeps.plan import Planned
from piip.tracking.store import age
from piip.training.loop import Plan

EARLY = 0.05
"""Part of the sweep before which nothing is said of the time it will take: Ray is still starting workers."""
RECENT = 10
"""Log entries that a trial's pace is taken from."""


@dataclass(frozen=True)
class State:
    """What a trial's journal says at one moment."""

    status: str
    doing: str = ""
    """What it is at, or was, before its next step."""
    recent: tuple[tuple[int, int], ...] = ()
    """(step, timestamp in ms) of its last log entries, in order; empty before the first."""
    loss: float = 0.0
    images_per_second: float = 0.0
    score: tuple[int, float] | None = None
    """(step, value) of the last evaluation that had the score."""
    elsewhere: str = ""
    """Who trains it, where that is another command."""

    @classmethod
    def of(cls, journal: Follower, score: Score) -> Self:
        """As far as the journal has been read."""
        metrics = journal.seen.metrics
        losses, scores = metrics.get("train/loss", {}), metrics.get(score.name, {})
        rates = metrics.get("train/images_per_second", {})
        return cls(
            journal.seen.status,
            journal.doing,
            tuple((step, losses[step][1]) for step in reversed(list(islice(reversed(losses), RECENT)))),
            losses[next(reversed(losses))][0] if losses else 0.0,
            rates[next(reversed(rates))][0] if rates else 0.0,
            (last := next(reversed(scores)), scores[last][0]) if scores else None,
        )

    @property
    def step(self) -> int:
        """The last one logged; 0 before."""
        return self.recent[-1][0] if self.recent else 0


class Progress:
    """Prints `trial  step  loss  images/s  ETA  score  sweep ETA` for every trial that moves, before that what it is at, and its end."""

    def __init__(
        self,
        planned: Sequence[Planned],
        *,
        command: str = "",
        every: float = 5.0,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch trials and print what is new.

        Args:
            planned: The trials.
            command: This sweep's; what another one trains is said to be.
            every: Seconds.
            out: Default: stderr.
            clock: In seconds.
        """
        self._planned, self._command = planned, command
        self._every, self._out, self._clock = every, out or sys.stderr, clock
        self._stop = threading.Event()
        self._began = clock()
        self._journals = [Follower(home.journal_dir(p.trial.key)) for p in planned]
        for journal in self._journals:
            journal.look()
        # by earlier commands: it is no news, and says nothing of this one's pace
        self._past = [str(journal.seen.status) for journal in self._journals]
        self._seen = [replace(state, elsewhere="") for state in self._now()]
        self._before = [seen.step for seen in self._seen]
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.look()

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self.look()

    def look(self) -> None:
        """Read what is new in the journals, and print the lines it makes."""
        for journal in self._journals:
            journal.look()
        trials = self._now()
        left = self._left(trials)
        for number, (planned, before, now) in enumerate(zip(self._planned, self._seen, trials, strict=True), start=1):
            said = news(before, now, planned.plan, planned.trial.score)
            if said:
                print(
                    f"[{self._time()}] {number}/{len(self._planned)} {planned.trial.spec.name}  {said}{left}",
                    file=self._out,
                    flush=True,
                )
        self._seen = trials

    def _now(self) -> list[State]:
        """All trials; one that an earlier command ended (failed, say) waits for its turn until its status moves."""
        trials = [State.of(journal, p.trial.score) for journal, p in zip(self._journals, self._planned, strict=True)]
        for i, now in enumerate(trials):
            if now.status == self._past[i] != "RUNNING":
                trials[i] = replace(now, status="PENDING")
            else:
                self._past[i] = "RUNNING"  # by this command
            driver = who_drives(self._journals[i].folder) if now.status != "FINISHED" else None
            if driver and driver.command != self._command:
                trials[i] = replace(trials[i], elsewhere=str(driver))
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
        seconds = (self._clock() - self._began) * left / done
        return f"  sweep ETA {age(round(1000 * seconds))}"

    def _time(self) -> str:
        minutes, seconds = divmod(int(self._clock() - self._began), 60)
        return f"{minutes:02d}:{seconds:02d}"


def news(before: State, now: State, plan: Plan, score: Score) -> str:
    """What there is to say of a trial since the last look; empty where nothing moved."""
    if now.elsewhere not in ("", before.elsewhere):
        return f"{now.elsewhere} trains it: waiting for that"
    if now.status == "RUNNING" and now.step == before.step:
        return now.doing if now.doing != before.doing else ""
    return line(now, plan, score) if (now.step, now.status) != (before.step, before.status) else ""


def line(now: State, plan: Plan, score: Score) -> str:
    """One trial in one line."""
    step = now.step
    scored = f"  {score.label} {now.score[1]:.3f}" if now.score else ""
    if now.status != "RUNNING":
        return f"{now.status.lower()} at step {step}{scored}"
    at = f"step {step}/{plan.num_steps}  loss {now.loss:.3f}  {now.images_per_second:.1f} img/s"
    due = step == plan.num_steps or step % plan.eval_every == 0
    if due and (now.score is None or now.score[0] != step):
        return f"{at}  evaluating{scored}"
    # the median over the last entries: neither evaluations, nor start-up, nor the pause after a crash; one entry has no pace
    paces = [(later[1] - entry[1]) / 1000 / (later[0] - entry[0]) for entry, later in pairwise(now.recent)]
    eta = f"  ETA {(plan.num_steps - step) * median(paces):.0f} s" if paces else ""
    return f"{at}{eta}{scored}"
