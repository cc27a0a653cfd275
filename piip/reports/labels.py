"""Names beside points without overlaps."""

import math
from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from piip.reports.themes import Theme

RADII = (9, 17, 27, 40, 56, 76)
"""Distances from the point to try, in pixels of 1/100 inch."""
ANGLES = (0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200, 65, 295, 115, 245)
"""Directions to try at each distance, in degrees; beside the point before above and below."""
OVERLAP, CROSSING = 1000.0, 6.0


def place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    short: Sequence[str],
    theme: Theme,
    *,
    bold: Sequence[bool],
    line: Sequence[tuple[float, float]] = (),
) -> list[Text]:
    """Writes each text near its point; the first free place wins, a thin line leads to a label further away.

    Args:
        axes: Axes with final limits.
        points: Data coordinates.
        texts: What to write, in order of importance.
        short: What to write where the text finds no room, e.g. `#7`.
        theme: Inks.
        bold: Which labels are bold.
        line: Corners in data coordinates of a line that labels should rather not cross.

    Returns:
        The texts, as placed.
    """
    figure = axes.figure
    canvas = FigureCanvasAgg(figure)  # pyright: ignore[reportArgumentType]
    canvas.draw()  # fixes the layout: from here on pixels are true
    unit = figure.dpi / 100
    pixels = [tuple(axes.transData.transform(p)) for p in points]
    marks = [Bbox.from_extents(x - 7 * unit, y - 7 * unit, x + 7 * unit, y + 7 * unit) for x, y in pixels]
    steps = _samples([tuple(axes.transData.transform(p)) for p in line], 4 * unit)
    room, taken, written = axes.get_window_extent(), [], []
    for i, (text, number) in enumerate(zip(texts, short, strict=True)):
        label = axes.text(*points[i], text, fontsize=11, color=theme.ink, zorder=4)
        label.set_fontweight("bold" if bold[i] else "normal")
        obstacles = [*taken, *(m for j, m in enumerate(marks) if j != i)]
        cost, box = _best_place(label, pixels[i], obstacles, steps, room, unit, canvas)
        if cost >= OVERLAP:
            label.set_text(number)
            cost, box = _best_place(label, pixels[i], obstacles, steps, room, unit, canvas)
        _anchor(label, pixels[i], box, axes)
        taken.append(box)
        written.append(label)
        _lead(axes, pixels[i], box, theme, unit)
    return written


def _anchor(label: Text, point: tuple[float, float], box: Bbox, axes: Axes) -> None:
    """Ties the label by the side that faces its point: text is a little wider at some sizes than it was measured."""
    faces_right = box.x1 <= point[0]
    x, y = axes.transData.inverted().transform((box.x1 if faces_right else box.x0, box.y0))
    label.set_position((x, y))
    label.set_horizontalalignment("right" if faces_right else "left")


def _best_place(
    label: Text,
    point: tuple[float, float],
    obstacles: Sequence[Bbox],
    line: Sequence[tuple[float, float]],
    room: Bbox,
    unit: float,
    canvas: FigureCanvasAgg,
) -> tuple[float, Bbox]:
    """The cheapest of all places round the point: overlaps cost most, then crossing the line, then distance."""
    label.set_verticalalignment("bottom")
    size = label.get_window_extent(canvas.get_renderer())
    best = (math.inf, size)
    for radius in RADII:
        for order, angle in enumerate(ANGLES):
            box = _beside(point, radius * unit, angle, size)
            inside = box.x0 >= room.x0 and box.x1 <= room.x1 and box.y0 >= room.y0 and box.y1 <= room.y1
            hits = sum(box.overlaps(o) for o in obstacles) + (not inside)
            crossings = sum(box.contains(*p) for p in line)
            cost = OVERLAP * hits + CROSSING * crossings + radius + 0.1 * order
            if cost < best[0]:
                best = (cost, box)
    return best


def _beside(point: tuple[float, float], distance: float, angle: int, size: Bbox) -> Bbox:
    """The box of a label whose nearest edge lies `distance` from the point in the given direction."""
    across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    centre_x = point[0] + across * (distance + size.width / 2)
    centre_y = point[1] + up * (distance + size.height / 2)
    left, bottom = centre_x - size.width / 2, centre_y - size.height / 2
    return Bbox.from_bounds(left, bottom, size.width, size.height)


def _samples(corners: Sequence[tuple[float, float]], every: float) -> list[tuple[float, float]]:
    """Points along a polyline, `every` pixels."""
    samples = []
    for (x0, y0), (x1, y1) in pairwise(corners):
        count = max(1, int(math.hypot(x1 - x0, y1 - y0) / every))
        samples += [(x0 + (x1 - x0) * k / count, y0 + (y1 - y0) * k / count) for k in range(count + 1)]
    return samples


def _lead(axes: Axes, point: tuple[float, float], box: Bbox, theme: Theme, unit: float) -> None:
    """A thin line from the point to its label, where the label is not right beside it."""
    nearest = (min(max(point[0], box.x0), box.x1), min(max(point[1], box.y0), box.y1))
    if math.dist(point, nearest) < 14 * unit:
        return
    ends = axes.transData.inverted().transform([point, nearest])
    axes.plot(ends[:, 0], ends[:, 1], color=theme.ink, alpha=0.5, linewidth=0.8, zorder=1.5, scalex=False, scaley=False)
