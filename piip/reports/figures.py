"""The first figure of a report: score against cost, and what all figures share."""

import io
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from piip.reports import words
from piip.reports.labels import place_labels
from piip.reports.ranking import Ranking
from piip.reports.themes import LIGHT, MARKERS, Theme, dress, family_colors, legend, new_figure
from piip.reports.trials import Trial

COSTS = {"gflops": "GFLOPs of one image (MAC = 1)", "params_m": "parameters, millions"}

ALIKE = 0.01
"""Values that differ by less than this share of their size are drawn as equal: an axis of nothing but rounding misleads."""


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=figure.dpi, format="png")
    return stream.getvalue()


def score_against_cost(ranking: Ranking, cost: str, theme: Theme = LIGHT) -> Figure:
    """The score against `cost` ("gflops" or "params_m"), each trial named, the Pareto front drawn as the step it is.

    Raises:
        ValueError: No trial has both figures.
    """
    trials, score = ranking.trials, ranking.score
    shown = [t for t in ranking.scored if t[cost] is not None]
    if not shown:
        raise ValueError(f"none of {len(trials)} trials has {score.label} and {cost}: there is nothing to draw")
    best, colors = ranking.front(cost), family_colors(trials, theme)
    on_front = {t["run_id"] for t in best}
    order = [*best, *(t for t in shown if t["run_id"] not in on_front)]  # the front chooses its labels' places first
    points = [(t[cost], t["score"] or 0.0) for t in order]
    figure = new_figure(10, 6.2, theme)
    axes = figure.add_subplot()
    dress(axes, theme, xlabel=COSTS[cost], ylabel=f"{score.label} ({words.best(score)} of the training)")
    for trial, (x, y) in zip(order, points, strict=True):
        _mark(axes, x, y, trial, colors[trial["family"]], theme, chosen=trial["run_id"] in on_front)
    _limits(axes, points)
    # the front comes from the side where scores are worse
    worst = axes.get_ylim()[0 if score.mode == "max" else 1]
    corners = _steps(points[: len(best)], axes.get_xlim()[1], worst)
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    axes.plot(xs, ys, color=theme.ink, linewidth=1.4, alpha=0.55, zorder=2, scalex=False, scaley=False)
    axes.fill_between(xs, ys, worst, color=theme.ink, alpha=0.04, zorder=0, linewidth=0)
    _family_legend(axes, shown, colors, theme)
    bold = [t["run_id"] in on_front for t in order]
    numbers = [f"#{t['number']}" for t in order]
    place_labels(axes, points, [_name(t) for t in order], numbers, theme, bold=bold, line=corners)
    return figure


def _mark(axes: Axes, x: float, y: float, trial: Trial, color: str, theme: Theme, *, chosen: bool) -> None:
    """A trial's point: large and ringed where it is on the front."""
    size, alpha, edge, width = (11, 1, theme.ink, 1.6) if chosen else (8, 0.75, theme.paper, 0.8)
    axes.plot(
        x, y, MARKERS[trial["kind"]], color=color, zorder=3, markersize=size, alpha=alpha,
        markeredgecolor=edge, markeredgewidth=width,
    )  # fmt: skip


def _name(trial: Trial) -> str:
    """A PIIP's resolutions, its family being told by the colour; the whole label of anything with one image size."""
    return trial["label"].removeprefix(trial["family"]).strip() if trial["kind"] == "piip" else trial["label"]


def _limits(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Room for labels at every side; a logarithmic cost axis where costs span more than a factor of ten."""
    costs, gains = [x for x, _ in points], [y for _, y in points]
    low, high = min(costs), max(costs)
    axes.ticklabel_format(useOffset=False)  # 4.1, not 0.1 with +4 at the axis' end
    if low > 0 and high / low > 10:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.5, high * 1.7)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        span = _span(low, high) or 1
        axes.set_xlim(max(0, low - 0.15 * span), high + 0.22 * span)
    low, high = min(gains), max(gains)
    span = _span(low, high) or 0.1
    bottom, top = low - 0.15 * span, high + 0.18 * span
    # no room below 0 or above 1 where the score has none
    axes.set_ylim(max(0, bottom) if low >= 0 else bottom, min(1, top) if low >= 0 and high <= 1 else top)


def _span(low: float, high: float) -> float:
    """What an axis has to show: the range, or all from 0 on where values are as good as equal. 0 of nothing but zeros."""
    size = max(abs(low), abs(high))
    return high - low if high - low > ALIKE * size else size


def _steps(points: Sequence[tuple[float, float]], right: float, worst: float) -> list[tuple[float, float]]:
    """The front as a line: from the worst value up (or down) at each of its points, level to the next."""
    corners = [(points[0][0], worst)]
    for (x, y), following in zip(points, [*(p[0] for p in points[1:]), right], strict=True):
        corners += [(x, y), (following, y)]
    return corners


def _family_legend(axes: Axes, trials: Sequence[Trial], colors: Mapping[str, str], theme: Theme) -> None:
    kinds = {t["family"]: t["kind"] for t in trials}
    handles = [
        Line2D([], [], marker=MARKERS[kinds[f]], color=color, linestyle="", markersize=9, label=f)
        for f, color in colors.items()
        if f in kinds
    ]
    handles.append(Line2D([], [], color=theme.ink, alpha=0.55, linewidth=1.4, label="Pareto front"))
    legend(
        axes,
        theme,
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 1.1),
        ncols=len(handles),
        columnspacing=1.4,
    )
