"""The figure of curves: loss, score and learning rate over steps."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from piip.reports import words
from piip.reports.ranking import Ranking
from piip.reports.themes import LIGHT, Theme, dress, legend, new_figure, trial_lines
from piip.reports.trials import Trial

Histories = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
"""Run id -> `loss`, `lr`, `score` -> (step, value) pairs."""
FEW = 12
"""Points up to which each of them is marked; one alone has no line."""


def curves(ranking: Ranking, histories: Histories, theme: Theme = LIGHT) -> Figure:
    """Sum of the losses, score and learning rate over optimizer steps, one line per trial.

    Raises:
        ValueError: No trial has any history.
    """
    trials, score = ranking.trials, ranking.score
    shown = [t for t in trials if any(histories.get(t["run_id"], {}).values())]
    if not shown:
        raise ValueError(f"none of {len(trials)} trials has a history: there is nothing to draw")
    lines = trial_lines(trials, theme)
    figure = new_figure(10, 7.4 + 0.24 * max(0, len(shown) - 10), theme)
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 2))
    panels = {
        "loss": figure.add_subplot(grid[0, 0]),
        "score": figure.add_subplot(grid[0, 1]),
        "lr": figure.add_subplot(grid[1, 0]),
    }
    titles = {
        "loss": "training loss (sum of parts)",
        "score": f"{score.label} on validation images",
        "lr": "learning rate",
    }
    for key, axes in panels.items():
        dress(axes, theme, title=titles[key], xlabel="step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for trial in reversed(shown):  # the best trial is drawn last, on top
            series = histories[trial["run_id"]].get(key, ())
            if series:
                _curve(
                    axes,
                    series,
                    lines[trial["run_id"]],
                    smooth=key == "loss",
                    dots=key == "score" or len(series) <= FEW,
                )
        if not axes.lines:
            axes.text(0.5, 0.5, "nothing logged", transform=axes.transAxes, ha="center", color=theme.ink, alpha=0.7)
        _limits(axes, [point for trial in shown for point in histories[trial["run_id"]].get(key, ())])
    panels["score"].set_ylabel(f"{words.better(score)} is better", color=theme.ink, fontsize=12)
    panels["lr"].ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    panels["lr"].yaxis.get_offset_text().set_color(theme.ink)
    _names(figure.add_subplot(grid[1, 1]), shown, lines, theme)
    return figure


def _limits(axes: Axes, points: Sequence[tuple[int, float]]) -> None:
    """From step 0 and, where no value is below it, from 0 on; with room for a point that is alone."""
    axes.set_xlim(0, 1.04 * max((step for step, _ in points), default=1) or 1)
    values = [value for _, value in points if math.isfinite(value)]
    if all(value >= 0 for value in values):
        axes.set_ylim(0, 1.08 * max(values, default=1) or 1)


def _names(axes: Axes, trials: Sequence[Trial], lines: Mapping[str, tuple[str, Any]], theme: Theme) -> None:
    """The trials' names beside their lines, in a panel of their own."""
    axes.set_axis_off()
    handles = [
        Line2D([], [], color=color, linestyle=dashes, linewidth=2.2, label=trial["label"])
        for trial in trials
        for color, dashes in [lines[trial["run_id"]]]
    ]
    legend(
        axes, theme, handles=handles, loc="upper left", borderaxespad=0, handlelength=3,
        ncols=1 if len(handles) < 18 else 2,
    )  # fmt: skip


def _curve(axes: Axes, series: Sequence[tuple[int, float]], line: tuple[str, Any], *, smooth: bool, dots: bool) -> None:
    """One trial's line; a noisy series is drawn faintly with its running mean over it."""
    color, dashes = line
    steps, values = [s for s, _ in series], [v for _, v in series]
    if smooth and len(values) > 8:
        axes.plot(steps, values, color=color, alpha=0.16, linewidth=0.8)
        values = running_mean(values)
    marker = {"marker": "o", "markersize": 4} if dots else {}
    axes.plot(steps, values, color=color, linestyle=dashes, linewidth=1.9, **marker)


def running_mean(values: Sequence[float], reach: int = 4) -> list[float]:
    """Mean over each value and up to `reach` neighbours on both sides: smooth, and not late as a one-sided mean is."""
    means = []
    for i in range(len(values)):
        near = min(
            reach, i, len(values) - 1 - i
        )  # as many on the left as on the right, so that the ends are not pulled
        means.append(sum(values[i - near : i + near + 1]) / (2 * near + 1))
    return means
