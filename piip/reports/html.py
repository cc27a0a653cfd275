"""One page that holds a whole experiment: no other file, no network, readable on white and on dark."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image

from piip.reports.table import COLUMNS, number
from piip.reports.trials import Trial, front, too_short

WIDEST = 1200
"""Predictions are embedded at most this wide, in pixels."""

LEGEND = (
    "Click a heading to sort. Shaded, with ◆: on the Pareto front, that is, no trial has a higher box AP at equal or fewer "
    "GFLOPs. AP is COCO AP@[.5:.95], the best over the training. Images/s are the mean over the training steps. "
    "Minutes are the wall time of the worker that finished the trial. A dash: not recorded."
)


@dataclass(frozen=True)
class Plot:
    """A figure on white and on dark paper, as PNG."""

    name: str
    """File name without suffix, e.g. `ap_against_gflops`."""
    section: str
    caption: str
    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Page:
    """What one report says."""

    experiment: str
    made: str
    """When, and from which tracking server, for the line under the title."""
    headline: str
    trials: Sequence[Trial]
    plots: Sequence[Plot] = ()
    pictures: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """Heading (a trial) -> its prediction images."""
    provenance: Sequence[tuple[str, str]] = ()
    """Facts about how the trials were made: what, value."""
    settings: Sequence[tuple[str, str]] = ()
    """Parameters all trials share."""


def render(page: Page) -> str:
    """The page as one self-contained HTML document."""
    css, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    body = [
        f"<h1>{escape(page.experiment)}</h1><p class='quiet'>{escape(page.made)}</p>",
        f"<div class='answer'><p>{escape(page.headline)}</p>{_short(page.trials)}{_ladder(page.trials)}</div>",
        f"<h2>Trials</h2>{_table(page.trials)}",
        *_plots(page.plots),
        _pictures(page.pictures),
        f"<h2>How it was made</h2>{_facts(page.provenance)}",
        f"<details><summary>Settings all trials share ({len(page.settings)})</summary>",
        f"{_facts(page.settings)}</details>",
    ]
    title = escape(f"{page.experiment} · piip report")
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<link rel='icon' href='data:,'><title>{title}</title><style>\n{css}</style></head>\n"
        f"<body>\n{chr(10).join(filter(None, body))}\n<script>\n{script}</script></body></html>\n"
    )


def _short(trials: Sequence[Trial]) -> str:
    short = too_short(trials)
    return f"<p class='quiet'>{escape(short[0].upper() + short[1:])}.</p>" if short else ""


def _ladder(trials: Sequence[Trial]) -> str:
    """What to take for how many GFLOPs: the Pareto front, cheapest first."""
    steps = front(trials, "gflops")
    if len(steps) < 2:
        return ""
    items = "".join(
        f"<li><b>{step['gflops']:.2f} GFLOPs</b> buy box AP <b>{step['box_ap']:.3f}</b>: {escape(step['label'])}</li>"
        for step in steps
    )
    return f"<p>Worth their FLOPs (the Pareto front), cheapest first:</p><ol>{items}</ol>"


def _table(trials: Sequence[Trial]) -> str:
    """All trials; every heading is a button that sorts."""
    headings = [("#", True), *((heading, False) for heading in ("trial", "status", "branches", "resolutions"))]
    headings += [(heading, True) for heading, *_ in COLUMNS]
    headings += [(heading, False) for heading in ("kernel", "engine", "note")]
    head = "".join(
        f"<th scope='col'{' class=figure' if figure else ''}><button>{escape(heading)}</button></th>"
        for heading, figure in headings
    )
    rows = "\n".join(_row(trial) for trial in trials)
    table = f"<table id='trials'><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>"
    return f"<div class='scroll'>{table}</div><p class='quiet'>{LEGEND}</p>"


def _row(trial: Trial) -> str:
    mark = " ◆" if trial["front"] else ""
    branches = " + ".join(trial["branches"])
    archs = "<br>".join(
        f'<span title="{escape(arch)}">{escape(arch.split(".")[0])}</span>' for arch in trial["branches"]
    )
    status = f"<span class='status {escape(trial['status'])}'>{escape(trial['status'])}</span>"
    name = escape(trial["name"]).replace("_", "_<wbr>")
    sides = "/".join(map(str, trial["resolutions"]))
    cells = [
        _cell(str(trial["number"]), str(trial["number"]), "figure"),
        _cell(
            trial["label"], f"<b class='keep'>{escape(trial['label'])}{mark}</b><span class='name mono'>{name}</span>"
        ),
        _cell(trial["status"], status),
        _cell(branches, archs or "–", "mono keep"),
        _cell(sides, escape(sides) or "–", "keep"),
    ]
    for _, _, key, form in COLUMNS:
        value = trial[key]
        cells.append(_cell("" if value is None else repr(value), number(value, form), "figure"))
    cells += [_cell(trial[key], escape(trial[key]) or "–") for key in ("kernel", "engine")]
    cells.append(_cell(trial["note"], escape(trial["note"]), "note"))
    return f"<tr{' class=front' if trial['front'] else ''}>{''.join(cells)}</tr>"


def _cell(value: str, shown: str, classes: str = "") -> str:
    """A cell; `value` is what it is sorted by, `shown` is HTML."""
    return f"<td class='{classes}' data-value='{escape(value)}'>{shown}</td>"


def _plots(plots: Sequence[Plot]) -> list[str]:
    """The figures under their sections, in order; the reader's colour scheme chooses the paper."""
    parts, section = [], ""
    for plot in plots:
        if plot.section != section:
            section = plot.section
            parts.append(f"<h2>{escape(section)}</h2>")
        light, dark, caption = _embed(plot.light, "png"), _embed(plot.dark, "png"), escape(plot.caption)
        dark_source = f"<source media='(prefers-color-scheme: dark)' srcset='{dark}'>"
        picture = f"<picture>{dark_source}<img alt='{caption}' src='{light}'></picture>"
        parts.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
    return parts


def _pictures(pictures: Mapping[str, Sequence[Path]]) -> str:
    if not pictures:
        return "<h2>Predictions</h2><p>No trial has logged images (artifacts <code>predictions/*.png</code>) yet.</p>"
    parts = ["<h2>Predictions of the best trials</h2>"]
    for heading, paths in pictures.items():
        images = "".join(f"<figure><img alt='predictions, {escape(p.stem)}' src='{_photo(p)}'></figure>" for p in paths)
        parts.append(f"<h3>{escape(heading)}</h3><div class='pictures'>{images}</div>")
    return "".join(parts)


def _photo(path: Path) -> str:
    """A prediction image, no wider than needed; as JPEG, which holds a photograph in a tenth of PNG's bytes."""
    with Image.open(path) as image:
        photo = image.convert("RGB")
    photo.thumbnail((WIDEST, 4 * WIDEST))
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=88, optimize=True)
    return _embed(stream.getvalue(), "jpeg")


def _embed(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd class='mono'>{escape(value)}</dd>" for name, value in facts)
    return f"<dl>{rows}</dl>" if facts else "<p>Nothing was recorded.</p>"
