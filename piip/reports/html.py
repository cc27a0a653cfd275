"""One page that holds a whole experiment: no other file, no network, readable on white and on dark."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from piip.reports.html_table import table
from piip.reports.page import Chapter, Page, Plot
from piip.reports.ranking import Ranking, too_short
from piip.reports.trials import Trial

WIDEST = 1200
"""Predictions are embedded at most this wide, in pixels."""


def render(page: Page) -> str:
    """The page as one self-contained HTML document."""
    css, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    body = [
        f"<h1>{escape(page.experiment)}</h1><p class='quiet'>{escape(page.made)}</p>",
        _apart(page.chapters),
        *(part for chapter in page.chapters for part in _chapter(chapter)),
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


def _apart(chapters: Sequence[Chapter]) -> str:
    """Says that there are several scores or data, and that no trial of one is compared with one of another; else nothing."""
    scores = list(dict.fromkeys(f"{c.ranking.score.label} ({c.ranking.score.name})" for c in chapters))
    data = list(dict.fromkeys(str(c.ranking.data) for c in chapters))
    said = [f"Trials of several scores, each ranked by its own: {', '.join(scores)}."] if len(scores) > 1 else []
    said += [f"Trials scored on different data are ranked apart: {', '.join(data)}."] if len(data) > 1 else []
    return f"<p>{escape(' '.join(said))}</p>" if said else ""


def _chapter(chapter: Chapter) -> list[str]:
    """The answer, the table, the figures and the predictions of one ranking."""
    ranking = chapter.ranking
    return [
        f"<div class='answer'><p>{escape(chapter.headline)}</p>{_short(ranking.trials)}{_ladder(ranking)}</div>",
        f"<h2>Trials by {escape(ranking.score.label)} on {escape(str(ranking.data))}</h2>{table(ranking)}",
        *_plots(chapter.plots),
        _pictures(chapter.pictures),
    ]


def _short(trials: Sequence[Trial]) -> str:
    short = too_short(trials)
    return f"<p class='quiet'>{escape(short[0].upper() + short[1:])}.</p>" if short else ""


def _ladder(ranking: Ranking) -> str:
    """What to take for how many GFLOPs: the Pareto front, cheapest first."""
    steps, label = ranking.front("gflops"), escape(ranking.score.label)
    if len(steps) < 2:
        return ""
    items = "".join(
        f"<li><b>{step['gflops']:.2f} GFLOPs</b> buy {label} <b>{step['score']:.3f}</b>: {escape(step['label'])}</li>"
        for step in steps
    )
    return f"<p>Worth their FLOPs (the Pareto front), cheapest first:</p><ol>{items}</ol>"


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
