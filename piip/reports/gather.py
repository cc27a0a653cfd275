"""From the runs of an experiment, as MLflow has them, to what a page says."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from piip.home import home
from piip.reports.figures import Histories, ap_against_cost, curves, png, resolutions_against_ap
from piip.reports.html import Page, Plot
from piip.reports.themes import DARK, LIGHT, Theme
from piip.reports.trials import Trial, summary, trials_of
from piip.tracking.store import RunInfo, Store

log = logging.getLogger(__name__)

SHOWN = 3
"""Trials whose predictions are shown."""
IMAGES = 6
"""Prediction images per trial."""
OF_ONE_RUN = {"piip.trial_key", "piip.spec_digest", "piip.note", "piip.failure", "piip.status", "piip.checkpoint"}
"""Tags that say something of one trial alone."""


def gather(experiment: str, store: Store, made: str) -> Page:
    """All a report says about an experiment.

    Raises:
        ValueError: There is no such experiment (the message lists those there are), or it holds no trial.
    """
    runs = store.find_runs(experiment)
    trials = summary(runs)
    if not trials:
        raise ValueError(f"experiment {experiment!r} has no trial yet ({len(runs)} runs, none trains a network)")
    members = trials_of(runs)
    return Page(
        experiment=experiment,
        made=f"{made}, from {place(store.where)}",
        headline=headline(trials),
        trials=trials,
        plots=_plots(trials, _histories(members, store)),
        pictures={t["label"] + _figure(t): paths for t in _scored(trials)[:SHOWN] if (paths := _images(t, store))},
        provenance=provenance(members),
        settings=settings(members),
    )


def headline(trials: Sequence[Trial]) -> str:
    """The answer in a sentence: the best trial and what it costs; and what is missing."""
    scored, missing = _scored(trials), Counter(t["status"] for t in trials if t["box_ap"] is None)
    absent = ", ".join(f"{count} {status}" for status, count in sorted(missing.items()))
    if not scored:
        return f"No trial has a box AP yet ({absent})."
    best = scored[0]
    masks = "" if best["mask_ap"] is None else f" (mask AP {best['mask_ap']:.3f})"
    costs = [("GFLOPs", best["gflops"], ".2f"), ("M parameters", best["params_m"], ".1f")]
    price = " and ".join(f"{value:{form}} {unit}" for unit, value, form in costs if value is not None)
    answer = f"{best['label']} is the best of {len(trials)} trials: box AP {best['box_ap']:.3f}{masks}{price and f' at {price}'}."
    return answer + (f" Without a box AP: {absent}." if absent else "")


def place(text: str) -> str:
    """A path as a page may show it that others will read: from PIIP_HOME on; of another SQLite file the name alone."""
    text = text.replace(f"{home()}/", "")
    return Path(text).name if text.startswith("sqlite:") else text


def provenance(runs: Sequence[RunInfo]) -> list[tuple[str, str]]:
    """Tags of the trials, each once: code, versions, hardware, data. Where trials differ, each value with its count."""
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for run in runs:
        for tag, value in run.tags.items():
            if value and tag not in OF_ONE_RUN and not tag.startswith("mlflow."):
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


def _scored(trials: Sequence[Trial]) -> list[Trial]:
    return [t for t in trials if t["box_ap"] is not None]


def _figure(trial: Trial) -> str:
    return f": box AP {trial['box_ap']:.3f}"


def _histories(runs: Sequence[RunInfo], store: Store) -> Histories:
    """Losses summed over their parts, learning rate and box AP of each run, by step."""
    histories = {}
    for run in runs:
        total: dict[int, float] = defaultdict(float)
        for name in (n for n in run.metrics if n.startswith("train/loss_")):
            for step, value, _ in store.history(run.run_id, name):
                total[step] += value
        histories[run.run_id] = {"loss": sorted(total.items())}
        for key, name in (("lr", "train/lr"), ("box_ap", "coco/box_ap")):
            points = store.history(run.run_id, name) if name in run.metrics else []
            histories[run.run_id][key] = [(step, value) for step, value, _ in points]
    return histories


def _plots(trials: Sequence[Trial], histories: Histories) -> list[Plot]:
    """Every figure there is something to draw for."""
    undrawn = sum(t["box_ap"] is None for t in trials)
    less = f" Not drawn: {undrawn} without a box AP." if undrawn else ""
    wanted: list[tuple[str, str, str, Callable[[Theme], Figure]]] = [
        (
            "ap_against_gflops", "AP against cost",
            f"Best box AP against GFLOPs. Ringed: on the Pareto front; labels are image sizes, high to low.{less}",
            lambda theme: ap_against_cost(trials, "gflops", theme),
        ),
        (
            "ap_against_params", "AP against cost", f"Best box AP against parameters of the whole network.{less}",
            lambda theme: ap_against_cost(trials, "params_m", theme),
        ),
        (
            "resolutions", "Which image sizes",
            "Each line is a trial, best first; each mark is a branch at the side of the image it sees.",
            lambda theme: resolutions_against_ap(trials, theme),
        ),
        (
            "curves", "Curves", "Training loss (faint: as logged; line: running mean), validation AP and learning rate.",
            lambda theme: curves(trials, histories, theme),
        ),
    ]  # fmt: skip
    plots = []
    for name, section, caption, make in wanted:
        try:
            plots.append(Plot(name, section, caption, light=png(make(LIGHT)), dark=png(make(DARK))))
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
