"""How do time and memory of a training step grow with image size, batch, branches and workers?

    PYTHONPATH=. python experiments/benchmarks/growth.py   # until 60 s or 6 GB a point; 15 minutes
    PYTHONPATH=. python experiments/benchmarks/growth.py --axes size --most-gb 70 --json > a.json   # on a GPU
    PYTHONPATH=. python experiments/benchmarks/growth.py --axes workers --with a.json --png growth.png    # more, in one table and picture

Forward and backward pass of Mask R-CNN in our fastest form, on random images, 7 to 5, with five objects each. Every point is a process
of its own; on a GPU its memory is `max_memory_allocated`, else how far its resident memory has grown at most since before the network
was built. `predicted` is what piip/counting/memory.py says of it beforehand (weights, gradients, activations), and a point that is
predicted above the limit ends its axis. `x first` is the ratio to the axis's first point; the exponent p is the best fit of
figure = c * size ** p.

    size      TSB (side, 5/7, 3/7), batch 1; exponent over pixels
    batch     TSB 448/320/192
    branches  T 448, TS 448/320, TSB 448/320/192, TSBL 448/320/192/128, batch 1: every branch more is a larger network on a smaller image
    workers   TSB 448/320/192, DDP, batch 1 each (gloo; on GPUs NCCL): memory is the first worker's
"""

import itertools
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Annotated

import timing
import torch
import tyro
from growth_point import Point, measure
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from piip.reports.figures import png
from piip.reports.themes import LIGHT, dress, legend, new_figure

UNITS = {"size": "megapixels", "batch": "images", "branches": "branches", "workers": "workers"}
MORE_OF_THE_SAME = ("size", "batch")
"""Axes on which a straight line is to be expected: fixed costs, and so much for each pixel or image."""


def points(axis: str, *, pico: bool = False) -> Iterator[tuple[float, Point]]:
    """The points of an axis, smallest first, each with its size there; without end where the limits are to stop it."""
    base = Point(pico=pico)
    match axis:
        case "size":
            sides = itertools.chain.from_iterable(
                (base.side * 2**i // 2, base.side * 3 * 2**i // 4) for i in itertools.count()
            )
            yield from ((side**2 * 5 / 7 / 1e6, replace(base, side=side)) for side in sides)
        case "batch":
            yield from ((2**i, replace(base, batch=2**i)) for i in itertools.count())
        case "branches":
            letters = "TSB" if pico else "TSBL"
            yield from ((n + 1, replace(base, letters=letters[: n + 1])) for n in range(len(letters)))
        case "workers":
            most = torch.cuda.device_count() or 2
            yield from ((2**i, replace(base, workers=2**i, ddp=True)) for i in range(most.bit_length()))


def follow(
    axis: str, points: Iterator[tuple[float, Point]], most_gb: float, most_seconds: float, *, minutes: float = inf
) -> list[timing.Row]:
    """The rows of an axis, to the largest point that fits; after so many minutes no other is begun."""
    until = time.monotonic() + 60 * minutes
    rows: list[timing.Row] = []
    for size, point in points:
        predicted = point.predicted_gb
        if predicted > most_gb:
            timing.progress(f"{axis} {size:.3g}: {predicted:.1f} GB predicted, more than {most_gb:g}")
            break
        timing.progress(f"{axis} {size:.3g}")
        found = measure(point, most_seconds)
        row: timing.Row = {"axis": axis, "at": size, "seconds": found["seconds"], "x first": 1.0, "GB": found["gb"]}
        row |= {"predicted GB": predicted, "measured / predicted": found["gb"] / predicted}
        rows.append(row)
        row["x first"] = found["seconds"] / float(str(rows[0]["seconds"]))
        timing.progress(f"    {found['seconds']:.3g} s, {found['gb']:.2f} GB, {predicted:.2f} predicted")
        if found["seconds"] > most_seconds or found["gb"] > most_gb:
            break
        if time.monotonic() > until:
            timing.progress(f"{axis}: no larger points, its time is up")
            break
    return rows


def exponents(rows: list[timing.Row], last: int = 0) -> dict[str, float]:
    """Exponents of time and of memory, over all points of an axis or the last few."""
    at = [float(str(row["at"])) for row in rows[-last:]]
    return {name: timing.exponent(at, [float(str(row[name])) for row in rows[-last:]]) for name in ("seconds", "GB")}


def line(rows: list[timing.Row], name: str) -> tuple[float, float, float]:
    """Least squares of figure = start + slope * size: both, and how far the worst point is from it, as a part of the point.

    What does not depend on the size, such as gradients of weights, makes an exponent small; it is the start here.
    """
    at, figures = ([float(str(row[key])) for row in rows] for key in ("at", name))
    slope, start = statistics.linear_regression(at, figures)
    return start, slope, max(abs(start + slope * x - y) / y for x, y in zip(at, figures, strict=True))


def draw(found: dict[str, list[timing.Row]]) -> Figure:
    """Time above memory, an axis a column, both scales logarithmic; with the fitted powers and straight lines."""
    figure = new_figure(3.6 * len(found) + 1, 7, LIGHT)
    panels = figure.subplots(2, len(found), squeeze=False, sharey="row")  # steep is then steep everywhere
    for column, (axis, rows) in enumerate(found.items()):
        powers, at = exponents(rows), [float(str(row["at"])) for row in rows]
        for axes, name, color in zip(panels[:, column], ("seconds", "GB"), LIGHT.piip, strict=False):
            title = f"{axis}: {name} ~ {UNITS[axis]}$^{{{powers[name]:.2f}}}$"
            dress(axes, LIGHT, title=title, xlabel=UNITS[axis], ylabel="" if column else name)
            values = [float(str(row[name])) for row in rows]
            axes.plot(at, values, "o", color=color, markersize=8, label="measured")
            centre = [timing.geomean(at), timing.geomean(values)]
            axes.plot(at, [centre[1] * (x / centre[0]) ** powers[name] for x in at], ":", color=color, label="power")
            if axis in MORE_OF_THE_SAME and len(rows) > 2:
                start, slope, _ = line(rows, name)
                fine = [at[0] * (at[-1] / at[0]) ** (i / 50) for i in range(51)]
                axes.plot(fine, [start + slope * x for x in fine], color=color, label="straight line")
            if name == "GB":
                predicted = [float(str(row["predicted GB"])) for row in rows]
                axes.plot(at, predicted, "_", color=LIGHT.ink, markersize=14, markeredgewidth=2, label="predicted")
            for scale in (axes.set_xscale, axes.set_yscale):
                scale("log")
            for side in (axes.xaxis, axes.yaxis):
                side.set_major_locator(LogLocator(subs=(1, 2, 5)))
                side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                side.set_minor_formatter(NullFormatter())
            if axis != "size":  # counts
                axes.xaxis.set_major_locator(FixedLocator(at))
                axes.xaxis.set_minor_locator(NullLocator())
    legend(figure, LIGHT, handles=panels[1, 0].get_legend_handles_labels()[0], loc="outside lower center", ncols=4)
    return figure


@dataclass
class Options(timing.Options):
    """What this benchmark is told."""

    axes: tuple[str, ...] = tuple(UNITS)
    """What grows; not given: all, one after the other."""
    most_gb: float = 6.0
    """Memory that a point's worker may take."""
    most_seconds: float = 60.0
    """Seconds that a forward and backward pass may take."""
    minutes: float = inf
    """Of an axis; then no larger point is begun."""
    earlier: Annotated[tuple[Path, ...], tyro.conf.arg(name="with", metavar="JSON [JSON ...]")] = ()
    """Rows of earlier runs are shown, too."""
    png: Path | None = None
    """The curves are drawn into this file, too."""
    pico: bool = False
    """The demo's small networks: a quick look."""


def main() -> None:
    """Measures what was asked for and prints a table."""
    given = timing.given(Options, __doc__)
    timing.known(given.axes, UNITS, "axis")
    found: dict[str, list[timing.Row]] = {}
    for row in itertools.chain.from_iterable(json.loads(path.read_text())["rows"] for path in given.earlier):
        found.setdefault(row["axis"], []).append(row)
    for axis in given.axes:
        limits = (given.most_gb, given.most_seconds)
        found[axis] = follow(axis, points(axis, pico=given.pico), *limits, minutes=given.minutes)
    summary: timing.Row = {}
    for axis, rows in found.items():
        for name, power in exponents(rows).items():
            tail = f", last three {exponents(rows, 3)[name]:.2f}" if len(rows) > 3 else ""
            summary[f"{name} over {UNITS[axis]}, exponent"] = f"{power:.2f}{tail}"
            if axis in MORE_OF_THE_SAME and len(rows) > 2:
                start, slope, away = line(rows, name)
                summary[f"{name} over {UNITS[axis]}, straight line"] = f"{start:.2f} + {slope:.2f} x, within {away:.0%}"
    if given.png:
        given.png.write_bytes(png(draw(found)))
    timing.report(list(itertools.chain(*found.values())), as_json=given.json, summary=summary)


if __name__ == "__main__":
    main()
