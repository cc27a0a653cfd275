"""Who is best: trials in the order of the score their tags name. Trials of different scores, or of different data, are never compared."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from piip.contracts import Score
from piip.record.scores import details_of, scores_of
from piip.reports.naming import unique_labels
from piip.reports.pareto import pareto_front
from piip.reports.scored_on import ScoredOn, data_key, scored_on, told_apart
from piip.reports.trials import Trial, row, trials_of
from piip.tracking.store import RunInfo

FEW_STEPS = 500
"""The paper's warm-up alone: after fewer steps, what starts from random weights (merge, interactions, heads) decides the order."""


@dataclass(frozen=True)
class Ranking:
    """Trials that one score on the same data ranks, best first; those without it (failed, still running) come last, none is dropped."""

    scores: tuple[Score, ...]
    """The one that ranks, then those further ones that a trial has logged."""
    trials: Sequence[Trial]
    data: ScoredOn
    details: tuple[Score, ...] = ()
    """What is shown beside the scores; those that a trial has logged."""

    @property
    def score(self) -> Score:
        """The one that ranks."""
        return self.scores[0]

    @property
    def scored(self) -> list[Trial]:
        """Trials that have the score, best first."""
        return [trial for trial in self.trials if trial["score"] is not None]

    def front(self, cost: str) -> list[Trial]:
        """The trials no other beats in the score, to the three decimals shown, at equal or lower `cost`, cheapest first.

        Args:
            cost: "gflops" or "params_m"; trials without it are left out.
        """
        measured = [trial for trial in self.scored if trial[cost] is not None]
        return [measured[i] for i in pareto_front([(trial[cost], round(self.gain(trial), 3)) for trial in measured])]

    def gain(self, trial: Trial) -> float:
        """A scored trial's score, its sign turned where the score is to be low: more is better."""
        value = trial["score"] or 0.0
        return value if self.score.mode == "max" else -value


def rankings(runs: Sequence[RunInfo]) -> list[Ranking]:
    """The trials of an experiment, a ranking for each score on each data they have.

    By the score's name, then those that have figures, the newest data first.

    Args:
        runs: All runs, parents included.
    """
    groups: dict[tuple[str, str, tuple[str, int]], list[RunInfo]] = defaultdict(list)
    for run in trials_of(runs):
        score = scores_of(run.tags)[0]
        groups[score.name, score.mode, data_key(run)].append(run)
    keys = sorted(groups, key=lambda key: (*key[:2], -max(run.start_ms for run in groups[key])))
    data = told_apart([scored_on(groups[key]) for key in keys])
    ranked = [_ranking(groups[key], its) for key, its in zip(keys, data, strict=True)]
    return sorted(ranked, key=lambda ranking: (ranking.score.name, not ranking.scored))


def trials_in(ranked: Sequence[Ranking]) -> list[Trial]:
    """All trials, one ranking after another."""
    return [trial for ranking in ranked for trial in ranking.trials]


def _ranking(runs: Sequence[RunInfo], data: ScoredOn) -> Ranking:
    """Rank runs whose first score is the same, on the same data."""
    known = {score.name: score for run in reversed(runs) for score in scores_of(run.tags)}  # the newest run says how
    rows = [row(run, list(known.values()), str(data)) for run in runs]
    first, *further = known.values()
    logged = [score for score in further if any(trial["scores"][score.name] is not None for trial in rows)]
    details = [
        part for part in details_of((first, *further)) if any(trial["details"][part.name] is not None for trial in rows)
    ]
    for trial in rows:
        trial["details"] = {part.name: trial["details"][part.name] for part in details}
    ranking = Ranking((first, *logged), rows, data, tuple(details))
    rows.sort(key=lambda trial: (trial["score"] is None, -ranking.gain(trial), trial["name"]))
    params = {run.run_id: run.params for run in runs}
    plain = [" ".join(filter(None, [t["family"], "/".join(map(str, t["resolutions"]))])) for t in rows]
    labels = unique_labels(plain, [params[trial["run_id"]] for trial in rows])
    on_front = {trial["run_id"] for trial in ranking.front("gflops")}
    for number, (trial, label) in enumerate(zip(rows, labels, strict=True), start=1):
        trial["number"], trial["label"], trial["front"] = number, label, trial["run_id"] in on_front
    return ranking


def too_short(trials: Sequence[Trial]) -> str:
    """A line for trials that are to be compared and were trained too little for it; empty where they were not."""
    short = [trial["steps"] for trial in trials if trial["steps"] is not None and trial["steps"] < FEW_STEPS]
    if len(trials) < 2 or not short:
        return ""
    steps = " to ".join(dict.fromkeys(map(str, (min(short), max(short)))))
    return f"too short to rank networks: {steps} steps"
