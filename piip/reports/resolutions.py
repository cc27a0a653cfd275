"""The figure of image sizes: what each branch sees, and the score that gives."""

from matplotlib.figure import Figure

from piip.reports import words
from piip.reports.ranking import Ranking
from piip.reports.themes import LIGHT, MARKERS, Theme, dress, family_colors, new_figure


def resolutions_against_score(ranking: Ranking, theme: Theme = LIGHT, most: int = 40) -> Figure:
    """One line per trial, best first: which image sizes its branches see, and the score they give.

    Raises:
        ValueError: No trial has both.
    """
    trials, label = ranking.trials, ranking.score.label
    shown = [t for t in ranking.scored if t["resolutions"]][:most]
    if not shown:
        raise ValueError(f"none of {len(trials)} trials has {label} and resolutions: there is nothing to draw")
    colors = family_colors(trials, theme)
    figure = new_figure(10, 1.4 + 0.42 * len(shown), theme)
    sizes, gains = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    dress(sizes, theme, xlabel="image side each branch sees, pixels", title="resolutions")
    dress(
        gains,
        theme,
        xlabel=f"{label}, {words.better(ranking.score)} is better",
        title=f"{label} (◆ Pareto front)" if any(t["front"] for t in trials) else label,
    )
    for y, trial in enumerate(shown):
        color, marker = colors[trial["family"]], MARKERS[trial["kind"]]
        sides, value = trial["resolutions"], trial["score"] or 0.0
        sizes.plot(sides, [y] * len(sides), marker=marker, color=color, markersize=9, linewidth=2.2)
        for side in set(sides):
            text = str(side) if sides.count(side) == 1 else f"{side} ×{sides.count(side)}"
            sizes.annotate(
                text, (side, y), (0, 8), textcoords="offset points", ha="center", fontsize=9, color=theme.ink
            )
        gains.barh(y, value, height=0.55, color=color)
        gains.annotate(
            f"{value:.3f}" + (" ◆" if trial["front"] else ""), (max(value, 0), y), (5, 0),
            textcoords="offset points", va="center", fontsize=11, color=theme.ink,
        )  # fmt: skip
    sizes.set_yticks(range(len(shown)), [f"{t['family']}  #{t['number']}" for t in shown])
    sizes.set_ylim(len(shown) - 0.4, -0.8)
    sides = sorted({side for t in shown for side in t["resolutions"]})
    if len(sides) <= 8:
        sizes.set_xticks(sides)
    span = (sides[-1] - sides[0]) or sides[-1]
    sizes.set_xlim(sides[0] - 0.08 * span, sides[-1] + 0.08 * span)
    values = [t["score"] or 0.0 for t in shown]
    gains.set_xlim(min(0, *values), 1.25 * max(0, *values) or max(map(abs, values)) or 1)
    gains.tick_params(labelleft=False)
    for axes in (sizes, gains):
        axes.grid(axis="y", visible=False)
    return figure
