"""From the runs of an experiment, as MLflow has them, to what a page says."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from piip.contracts import Score
from piip.home import home
from piip.record.scores import SCORES
from piip.reports import words
from piip.reports.curves import Histories, curves
from piip.reports.figures import png, score_against_cost
from piip.reports.page import Chapter, Page, Plot
from piip.reports.ranking import Ranking, rankings
from piip.reports.resolutions import resolutions_against_score
from piip.reports.themes import DARK, LIGHT, Theme
from piip.reports.trials import Trial, trials_of
from piip.tracking.store import RunInfo, Store
from piip.tracking.writer import KEY

log = logging.getLogger(__name__)

SHOWN = 3
"""Trials whose predictions are shown."""
IMAGES = 6
"""Prediction images per trial."""
OF_ONE_RUN = {
    "piip.trial_key", "piip.spec_digest", "piip.note", "piip.failure", "piip.status", "piip.checkpoint", "piip.title",
}  # fmt: skip
"""Tags that say something of one trial alone."""


def gather(experiment: str, store: Store, made: str) -> Page:
    """All a report says about an experiment.

    Raises:
        ValueError: There is no such experiment (the message lists those there are), or it holds no trial.
    """
    runs = store.find_runs(experiment)
    ranked = rankings(runs)
    _say_what_is_left_out(experiment, runs, store)
    if not ranked:
        raise ValueError(f"experiment {experiment!r} has no trial yet ({len(runs)} runs, none trains a network)")
    members = trials_of(runs)
    return Page(
        experiment=experiment,
        made=f"{made}, from {place(store.where)}",
        chapters=[_chapter(ranking, members, store, _suffix(ranking, ranked)) for ranking in ranked],
        provenance=provenance(members),
        settings=settings(members),
    )


def _say_what_is_left_out(experiment: str, runs: Sequence[RunInfo], store: Store) -> None:
    """Name the trials that somebody deleted in MLflow; but for those that it made twice, of which one is there."""
    there = {run.tags.get(KEY) for run in runs}
    for run in store.find_deleted(experiment):
        if run.tags.get(KEY) not in there and run.tags.get("piip.kind") != "sweep":
            log.warning("%s is left out: %s", run.name, store.deleted(run.run_id))


def _suffix(ranking: Ranking, ranked: Sequence[Ranking]) -> str:
    """How names of a ranking's figures end: with its score and its data, where others have others."""
    alike = [other for other in ranked if other.score.name == ranking.score.name]
    score = [ranking.score.name.replace("/", "_")] if len(alike) < len(ranked) else []
    data = [ranking.data.slug] if len(alike) > 1 else []
    return "".join(f"_{part}" for part in score + data)


def _chapter(ranking: Ranking, runs: Sequence[RunInfo], store: Store, suffix: str) -> Chapter:
    """What there is to say of one ranking."""
    members = {trial["run_id"] for trial in ranking.trials}
    histories = _histories([run for run in runs if run.run_id in members], ranking.score, store)
    return Chapter(
        ranking,
        headline(ranking),
        _plots(ranking, histories, suffix),
        {
            f"{trial['label']}: {ranking.score.label} {trial['score']:.3f}": paths
            for trial in ranking.scored[:SHOWN]
            if (paths := _images(trial, store))
        },
    )


def headline(ranking: Ranking) -> str:
    """The answer in a sentence: the best trial and what it costs; and what is missing."""
    score, *further = ranking.scores
    missing = Counter(trial["status"] for trial in ranking.trials if trial["score"] is None)
    absent = ", ".join(f"{count} {status}" for status, count in sorted(missing.items()))
    if not ranking.scored:
        return f"No trial has {score.label} yet ({absent})."
    best = ranking.scored[0]
    also = [(other.label, value) for other in further if (value := best["scores"][other.name]) is not None]
    others = f" ({', '.join(f'{label} {value:.3f}' for label, value in also)})" if also else ""
    costs = [("GFLOPs", best["gflops"], ".2f"), ("M parameters", best["params_m"], ".1f")]
    price = " and ".join(f"{value:{form}} {unit}" for unit, value, form in costs if value is not None)
    answer = (
        f"{best['label']} has the {words.best(score)} {score.label} of {len(ranking.trials)} trials on {ranking.data}: "
        f"{best['score']:.3f}{others}{price and f' at {price}'}."
    )
    return answer + (f" Without {score.label}: {absent}." if absent else "")


def place(text: str) -> str:
    """A path as a page may show it that others will read: from PIIP_HOME on; of another SQLite file the name alone."""
    text = text.replace(f"{home()}/", "")
    return Path(text).name if text.startswith("sqlite") else text


def provenance(runs: Sequence[RunInfo]) -> list[tuple[str, str]]:
    """Tags of the trials, each once: code, versions, hardware, data. Where trials differ, each value with its count."""
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for run in runs:
        for tag, value in run.tags.items():
            if value and tag not in OF_ONE_RUN | {SCORES} and not tag.startswith("mlflow."):
                values[tag][place(value)] += 1
    return [(tag, _counted(counts)) for tag, counts in sorted(values.items())]


def settings(runs: Sequence[RunInfo]) -> list[tuple[str, str]]:
    """Parameters that are the same in all trials; what differs is in the table."""
    first, *others = (run.params for run in runs)
    return [(key, value) for key, value in sorted(first.items()) if all(o.get(key) == value for o in others)]


def _counted(counts: Counter[str]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    listed = [f"{value} ({count} trials)" for value, count in counts.most_common(6)]
    return "; ".join(listed + ([f"and {len(counts) - 6} more"] if len(counts) > 6 else []))


def _histories(runs: Sequence[RunInfo], score: Score, store: Store) -> Histories:
    """Losses summed over their parts, learning rate and score of each run, by step."""
    histories = {}
    for run in runs:
        total: dict[int, float] = defaultdict(float)
        for name in (n for n in run.metrics if n.startswith("train/loss_")):
            for step, value, _ in store.history(run.run_id, name):
                total[step] += value
        histories[run.run_id] = {"loss": sorted(total.items())}
        for key, name in (("lr", "train/lr"), ("score", score.name)):
            points = store.history(run.run_id, name) if name in run.metrics else []
            histories[run.run_id][key] = [(step, value) for step, value, _ in points]
    return histories


def _plots(ranking: Ranking, histories: Histories, suffix: str) -> list[Plot]:
    """Every figure there is something to draw for; `suffix` ends the names of their files."""
    label, best = ranking.score.label, words.best(ranking.score).capitalize()
    undrawn = len(ranking.trials) - len(ranking.scored)
    less = f" Not drawn: {undrawn} without {label}." if undrawn else ""
    wanted: list[tuple[str, str, str, Callable[[Theme], Figure]]] = [
        (
            "score_against_gflops", f"{label} against cost",
            f"{best} {label} against GFLOPs. Ringed: on the Pareto front; labels are image sizes, high to low.{less}",
            lambda theme: score_against_cost(ranking, "gflops", theme),
        ),
        (
            "score_against_params", f"{label} against cost",
            f"{best} {label} against parameters of the whole network.{less}",
            lambda theme: score_against_cost(ranking, "params_m", theme),
        ),
        (
            "resolutions", "Which image sizes",
            "Each line is a trial, best first; each mark is a branch at the side of the image it sees.",
            lambda theme: resolutions_against_score(ranking, theme),
        ),
        (
            "curves", "Curves",
            f"Training loss (faint: as logged; line: running mean), {label} on validation images and learning rate.",
            lambda theme: curves(ranking, histories, theme),
        ),
    ]  # fmt: skip
    plots = []
    for name, section, caption, make in wanted:
        try:
            plots.append(Plot(name + suffix, section, caption, light=png(make(LIGHT)), dark=png(make(DARK))))
        except ValueError as nothing_to_draw:
            log.warning("no figure %s: %s", name, nothing_to_draw)
    return plots


def _images(trial: Trial, store: Store) -> list[Path]:
    """A trial's prediction images; none where it logged none."""
    try:
        folder = store.download(trial["run_id"], "predictions")
    except FileNotFoundError:
        log.warning("%s has no predictions in MLflow", trial["label"])
        return []
    return sorted(folder.glob("*.png"))[:IMAGES]
