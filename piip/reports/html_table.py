"""The trials as a table of the page: every heading is a button that sorts."""

from collections.abc import Mapping, Sequence
from html import escape

from piip.reports import words
from piip.reports.ranking import Ranking
from piip.reports.table import Column, columns, number, shared
from piip.reports.trials import Trial


def table(ranking: Ranking) -> str:
    """All trials, and below them what the columns are."""
    figures = columns(ranking)
    _, differing = shared(ranking.scored or ranking.trials, ("kernel", "engine"))
    noted = ["note"] if any(trial["note"] for trial in ranking.trials) else []
    headings = [_heading("#", low=True), *map(_heading, ("trial", "status", "branches", "resolutions"))]
    headings += [_heading(column.heading, low=column.low) for column in figures]
    headings += [_heading(text) for text in (*differing, *noted)]
    rows = "\n".join(_row(trial, figures, differing, noted=bool(noted)) for trial in ranking.trials)
    made = f"<table class='trials'><thead><tr>{''.join(headings)}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>"
    return f"<div class='scroll'>{made}</div><p class='quiet'>{escape(legend(ranking))}</p>"


def legend(ranking: Ranking) -> str:
    """What the columns are, in words."""
    score, *further = ranking.scores
    same, _ = shared(ranking.scored or ranking.trials, ("kernel", "engine"))
    also = "".join(
        f" {other.label} ({other.name}) is of the same evaluation." for other in (*further, *ranking.details)
    )
    front = f" Shaded, with ◆: on the Pareto front, that is, {words.on_front(score)}."
    return (
        f"Click a heading to sort.{front if any(trial['front'] for trial in ranking.trials) else ''} "
        f"{score.label} ({score.name}) is the {words.best(score)} of the training.{also} Images/s are the mean over the training "
        "steps. Minutes are the wall time of the worker that finished the trial. A dash: not recorded."
        f"{f' All: {_words(same)}.' if same else ''}"
    )


def _words(same: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in same.items())


def _heading(text: str, *, low: bool | None = None) -> str:
    """A heading; `low` of one over figures says whether sorting begins with the smallest."""
    figure = "" if low is None else " class='figure'" + (" data-low" if low else "")
    start, end = text.split()[:-2], text.split()[-2:]  # the arrow stays beside the last word
    broken = escape("".join(f"{word} " for word in start))
    return f"<th scope='col'{figure}><button>{broken}<span class='end'>{escape(' '.join(end))}</span></button></th>"


def _row(trial: Trial, figures: Sequence[Column], differing: Sequence[str], *, noted: bool) -> str:
    mark = "\N{NO-BREAK SPACE}◆" if trial["front"] else ""
    branches = " + ".join(trial["branches"])
    archs = "<br>".join(
        f'<span title="{escape(arch)}">{escape(arch.split(".")[0])}</span>' for arch in trial["branches"]
    )
    status = f"<span class='status {escape(trial['status'])}'>{escape(trial['status'])}</span>"
    name = escape(trial["name"]).replace("_", "_<wbr>")
    sides = "/".join(map(str, trial["resolutions"]))
    cells = [
        _cell(str(trial["number"]), str(trial["number"]), "figure"),
        _cell(trial["label"], f"<b>{escape(trial['label'])}{mark}</b><span class='name mono'>{name}</span>", "trial"),
        _cell(trial["status"], status),
        _cell(branches, archs or "–", "mono keep"),
        _cell(sides, escape(sides) or "–", "keep"),
    ]
    for column in figures:
        value = column.of(trial)
        cells.append(_cell("" if value is None else repr(value), number(value, column.form), "figure"))
    cells += [_cell(trial[key], escape(trial[key]) or "–") for key in differing]
    cells += [_cell(trial["note"], escape(trial["note"]), "note")] if noted else []
    return f"<tr{' class=front' if trial['front'] else ''}>{''.join(cells)}</tr>"


def _cell(value: str, shown: str, classes: str = "") -> str:
    """A cell; `value` is what it is sorted by, `shown` is HTML."""
    return f"<td class='{classes}' data-value='{escape(value)}'>{shown}</td>"
