"""The figures of a report: AP against cost, resolutions against AP, curves."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from piip.reports.labels import place_labels
from piip.reports.themes import LIGHT, MARKERS, Theme, dress, family_colors, legend, new_figure, trial_lines
from piip.reports.trials import Trial, front

COSTS = {"gflops": "GFLOPs of one image (MAC = 1)", "params_m": "parameters, millions"}
Histories = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
"""Run id -> `loss`, `lr`, `box_ap` -> (step, value) pairs."""


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=figure.dpi, format="png")
    return stream.getvalue()


def ap_against_cost(trials: Sequence[Trial], cost: str, theme: Theme = LIGHT) -> Figure:
    """Box AP against `cost` ("gflops" or "params_m"), each trial named, the Pareto front drawn as the step it is.

    Raises:
        ValueError: No trial has both figures.
    """
    shown = [t for t in trials if t["box_ap"] is not None and t[cost] is not None]
    if not shown:
        raise ValueError(f"none of {len(trials)} trials has box AP and {cost}: there is nothing to draw")
    best, colors = front(shown, cost), family_colors(trials, theme)
    on_front = {t["run_id"] for t in best}
    order = [*best, *(t for t in shown if t["run_id"] not in on_front)]  # the front chooses its labels' places first
    points = [(t[cost], t["box_ap"] or 0.0) for t in order]
    figure = new_figure(10, 6.2, theme)
    axes = figure.add_subplot()
    dress(axes, theme, xlabel=COSTS[cost], ylabel="box AP (best of the training)")
    for trial, (x, y) in zip(order, points, strict=True):
        _mark(axes, x, y, trial, colors[trial["family"]], theme, chosen=trial["run_id"] in on_front)
    _limits(axes, points)
    corners = _steps(points[: len(best)], axes.get_xlim()[1], axes.get_ylim()[0])
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    axes.plot(xs, ys, color=theme.ink, linewidth=1.4, alpha=0.55, zorder=2, scalex=False, scaley=False)
    axes.fill_between(xs, ys, axes.get_ylim()[0], color=theme.ink, alpha=0.04, zorder=0, linewidth=0)
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
    if low > 0 and high / low > 10:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.5, high * 1.7)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        span = (high - low) or high or 1
        axes.set_xlim(max(0, low - 0.15 * span), high + 0.22 * span)
    span = (max(gains) - min(gains)) or max(gains) or 0.1
    axes.set_ylim(max(0, min(gains) - 0.15 * span), min(1, max(gains) + 0.18 * span))


def _steps(points: Sequence[tuple[float, float]], right: float, bottom: float) -> list[tuple[float, float]]:
    """The front as a line: up at each of its points, level to the next."""
    corners = [(points[0][0], bottom)]
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


def resolutions_against_ap(trials: Sequence[Trial], theme: Theme = LIGHT, most: int = 40) -> Figure:
    """One line per trial, best first: which image sizes its branches see, and the box AP they give."""
    shown = [t for t in trials if t["box_ap"] is not None and t["resolutions"]][:most]
    if not shown:
        raise ValueError(f"none of {len(trials)} trials has box AP and resolutions: there is nothing to draw")
    colors = family_colors(trials, theme)
    figure = new_figure(10, 1.4 + 0.42 * len(shown), theme)
    sizes, gains = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    dress(sizes, theme, xlabel="image side each branch sees, pixels", title="resolutions")
    dress(gains, theme, xlabel="box AP", title="box AP (◆ on the Pareto front)")
    for y, trial in enumerate(shown):
        color, marker = colors[trial["family"]], MARKERS[trial["kind"]]
        sides = trial["resolutions"]
        sizes.plot(sides, [y] * len(sides), marker=marker, color=color, markersize=9, linewidth=2.2)
        for side in set(sides):
            text = str(side) if sides.count(side) == 1 else f"{side} ×{sides.count(side)}"
            sizes.annotate(
                text, (side, y), (0, 8), textcoords="offset points", ha="center", fontsize=9, color=theme.ink
            )
        gains.barh(y, trial["box_ap"], height=0.55, color=color)
        gains.annotate(
            f"{trial['box_ap']:.3f}" + (" ◆" if trial["front"] else ""), (trial["box_ap"], y), (5, 0),
            textcoords="offset points", va="center", fontsize=11, color=theme.ink,
        )  # fmt: skip
    sizes.set_yticks(range(len(shown)), [f"{t['family']}  #{t['number']}" for t in shown])
    sizes.set_ylim(len(shown) - 0.4, -0.8)
    sides = sorted({side for t in shown for side in t["resolutions"]})
    if len(sides) <= 8:
        sizes.set_xticks(sides)
    span = (sides[-1] - sides[0]) or sides[-1]
    sizes.set_xlim(sides[0] - 0.08 * span, sides[-1] + 0.08 * span)
    gains.set_xlim(0, 1.25 * max(t["box_ap"] or 0 for t in shown) or 1)
    gains.tick_params(labelleft=False)
    for axes in (sizes, gains):
        axes.grid(axis="y", visible=False)
    return figure


def curves(trials: Sequence[Trial], histories: Histories, theme: Theme = LIGHT) -> Figure:
    """Sum of the losses, box AP and learning rate over optimizer steps, one line per trial.

    Raises:
        ValueError: No trial has any history.
    """
    shown = [t for t in trials if any(histories.get(t["run_id"], {}).values())]
    if not shown:
        raise ValueError(f"none of {len(trials)} trials has a history: there is nothing to draw")
    lines = trial_lines(trials, theme)
    figure = new_figure(10, 7.4 + 0.24 * max(0, len(shown) - 10), theme)
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 2))
    panels = {
        "loss": figure.add_subplot(grid[0, 0]),
        "box_ap": figure.add_subplot(grid[0, 1]),
        "lr": figure.add_subplot(grid[1, 0]),
    }
    titles = {"loss": "training loss (sum of parts)", "box_ap": "box AP on validation images", "lr": "learning rate"}
    for key, axes in panels.items():
        dress(axes, theme, title=titles[key], xlabel="step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for trial in reversed(shown):  # the best trial is drawn last, on top
            series = histories[trial["run_id"]].get(key, ())
            if series:
                _curve(axes, series, lines[trial["run_id"]], smooth=key == "loss", dots=key == "box_ap")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    panels["lr"].ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    panels["lr"].yaxis.get_offset_text().set_color(theme.ink)
    names = figure.add_subplot(grid[1, 1])
    names.set_axis_off()
    handles = [
        Line2D([], [], color=lines[t["run_id"]][0], linestyle=lines[t["run_id"]][1], linewidth=2.2, label=t["label"])
        for t in shown
    ]
    legend(
        names,
        theme,
        handles=handles,
        loc="upper left",
        borderaxespad=0,
        handlelength=3,
        ncols=1 if len(handles) < 18 else 2,
    )
    return figure


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
