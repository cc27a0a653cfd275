"""Colours and marks of the figures, on white and on dark paper."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from piip.reports.trials import Trial


@dataclass(frozen=True)
class Theme:
    """The inks of one figure."""

    name: str
    paper: str
    ink: str
    faint: str
    """Grid, leader lines, what is there but not the point."""
    piip: tuple[str, ...]
    """One per PIIP combination, in alphabetical order; repeated after the last."""
    vit: tuple[str, ...]
    cnn: tuple[str, ...]


# Okabe and Ito's colours, moved until each has a contrast of 3 or more against its paper
LIGHT = Theme(
    name="light", paper="#ffffff", ink="#1f2328", faint="#d0d5dc",
    piip=("#0072b2", "#d55e00", "#009272", "#a8327e", "#5b50c8"),
    vit=("#a07400", "#7d5a00"), cnn=("#57606a", "#7b858f"),
)  # fmt: skip
DARK = Theme(
    name="dark", paper="#161b22", ink="#e6edf3", faint="#3d444d",
    piip=("#56b4e9", "#ff9a57", "#3fd0a8", "#f08bc8", "#a99bff"),
    vit=("#e8c04c", "#c39b2a"), cnn=("#b4bec9", "#8c96a1"),
)  # fmt: skip

MARKERS = {"piip": "o", "vit": "s", "cnn": "^", "other": "D"}
LINES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))


def family_colors(trials: Sequence[Trial], theme: Theme) -> dict[str, str]:
    """Colour of each family: PIIP combinations in bright ones, single ViTs and other peers in their own quiet ones."""
    inks = {"piip": theme.piip, "vit": theme.vit, "cnn": theme.cnn, "other": theme.cnn}
    colors: dict[str, str] = {}
    for kind, palette in inks.items():
        families = sorted({t["family"] for t in trials if t["kind"] == kind})
        colors |= {family: palette[i % len(palette)] for i, family in enumerate(families)}
    return colors


def trial_lines(trials: Sequence[Trial], theme: Theme) -> dict[str, tuple[str, Any]]:
    """Colour and dash pattern by run id: the family's colour in shades, so that each curve can be told apart."""
    colors = family_colors(trials, theme)
    lines = {}
    for family, color in colors.items():
        members = [t["run_id"] for t in trials if t["family"] == family]
        for i, run_id in enumerate(members):
            lines[run_id] = (
                _shade(color, 0 if len(members) == 1 else i / (len(members) - 1), theme),
                LINES[i % len(LINES)],
            )
    return lines


def _shade(color: str, step: float, theme: Theme) -> str:
    """The colour itself at step 0, nearer to the paper towards 1, always readable on it."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(color))
    reach = 0.16 if theme.name == "light" else -0.18
    return to_hex(colorsys.hls_to_rgb(hue, min(0.95, max(0.05, lightness + reach * step)), saturation))


def new_figure(width: float, height: float, theme: Theme) -> Figure:
    """An empty figure on the theme's paper; an inch is 100 pixels of a page, drawn with 160 dots for dense screens."""
    return Figure(figsize=(width, height), dpi=160, facecolor=theme.paper, layout="constrained")


def dress(axes: Axes, theme: Theme, *, xlabel: str = "", ylabel: str = "", title: str = "") -> None:
    """The look all axes share: two quiet spines, a faint grid behind, text in ink."""
    axes.set_facecolor(theme.paper)
    axes.set_axisbelow(True)
    axes.grid(color=theme.faint, linewidth=0.7, alpha=0.7)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)
    axes.tick_params(colors=theme.ink, labelsize=11, length=0)
    axes.set_xlabel(xlabel, color=theme.ink, fontsize=12)
    axes.set_ylabel(ylabel, color=theme.ink, fontsize=12)
    if title:
        axes.set_title(title, color=theme.ink, fontsize=13, fontweight="bold", loc="left")


def legend(holder: Axes | Figure, theme: Theme, **where: Any) -> None:
    """A legend without a frame, in ink."""
    made = holder.legend(frameon=False, fontsize=11, labelcolor=theme.ink, **where)
    made.set_zorder(5)
