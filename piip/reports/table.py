"""The trials as a terminal table: the sweep's last lines and what `python -m piip.report` prints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from piip.contracts import Score
from piip.reports import words
from piip.reports.ranking import Ranking, too_short
from piip.reports.trials import Trial


def number(value: float | None, form: str = ".3f") -> str:
    """A figure for people; an en dash where there is none."""
    return "–" if value is None else format(value, form)


@dataclass(frozen=True)
class Column:
    """A column that holds figures."""

    heading: str
    """The column's name on the page."""
    short: str
    """The same in the terminal, broken into short lines."""
    form: str
    of: Callable[[Trial], float | None]
    low: bool = False
    """Whether a low figure is the better one."""


COSTS = (
    Column("GFLOPs", "GFLOPs", ".2f", lambda trial: trial["gflops"]),
    Column("params, M", "params\nM", ".2f", lambda trial: trial["params_m"]),
    Column("images/s", "img\n/s", ".1f", lambda trial: trial["images_per_second"]),
    Column("peak GB", "peak\nGB", ".2f", lambda trial: trial["peak_memory_gb"]),
    Column("minutes", "min", ".1f", lambda trial: trial["minutes"]),
)


def columns(scores: Sequence[Score]) -> list[Column]:
    """Scores, then what they cost."""
    return [*map(_column, scores), *COSTS]


def _column(score: Score) -> Column:
    text = words.heading(score)
    # the label's words one below the other, the arrow beside the last
    short = "\n".join(score.label.split()) + text.removeprefix(score.label)
    return Column(text, short, ".3f", lambda trial: trial["scores"].get(score.name), low=score.mode == "min")


STYLE = {"finished": "green", "failed": "bold red", "interrupted": "red", "running": "yellow"}


def tables(ranked: Sequence[Ranking], width: int = 80) -> Group:
    """A terminal table for each ranking; see `table_of`."""
    return Group(*(table_of(ranking, width) for ranking in ranked))


def table_of(ranking: Ranking, width: int = 80) -> Table:
    """Trials as a terminal table, best first, 80 columns wide where names are short.

    Columns without a figure are left out. Below the table: notes, and kernel and engine where all trials share them.

    Args:
        ranking: Of one score.
        width: Characters; where they leave room for it, the beginning of each run's id (enough for --run-id) is a column.
    """
    wide = _table(ranking, ids=True)
    return wide if Console(width=1000).measure(wide).maximum <= width else _table(ranking, ids=False)


def _table(ranking: Ranking, *, ids: bool) -> Table:
    trials = ranking.trials
    figures = [c for c in columns(ranking.scores) if any(c.of(trial) is not None for trial in trials)]
    same, differing = shared(ranking.scored or trials, ("kernel", "engine"))
    table = Table(
        box=box.SIMPLE_HEAD, caption=escape("\n".join(_below(ranking, same))), caption_justify="left", pad_edge=False
    )
    table.padding = 0
    table.add_column("#", justify="right", no_wrap=True, min_width=2)
    table.add_column("", no_wrap=True, min_width=1)
    table.add_column("trial", no_wrap=True)
    for column in figures:
        table.add_column(column.short, justify="right", min_width=4)
    table.add_column("status", no_wrap=True, min_width=8)
    for heading in differing:
        table.add_column(heading, overflow="fold")
    if ids:
        table.add_column("run", no_wrap=True)
    for trial in trials:
        cells = [trial["label"], *(number(column.of(trial), column.form) for column in figures)]
        status = f"[{STYLE.get(trial['status'], 'cyan')}]{trial['status']}[/]"
        tail = [escape(trial[key]) for key in differing] + ([_short_id(trial["run_id"])] if ids else [])
        table.add_row(str(trial["number"]), "◆" if trial["front"] else "", *map(escape, cells), status, *tail)
    return table


def _short_id(run_id: str) -> str:
    """The beginning of an id of MLflow's; a run that it does not have goes by its trial key, which no verb takes."""
    return "–" if "-" in run_id else run_id[:8]


def _below(ranking: Ranking, same: dict[str, str]) -> list[str]:
    """The lines under the table."""
    trials = ranking.trials
    lines = [f"◆ Pareto front: {words.on_front(ranking.score)}"] if any(trial["front"] for trial in trials) else []
    lines += [short] if (short := too_short(trials)) else []
    lines += [", ".join(f"{key} {value}" for key, value in same.items())] if same else []
    for note in dict.fromkeys(trial["note"] for trial in trials if trial["note"]):
        who = " ".join(f"#{trial['number']}" for trial in trials if trial["note"] == note)
        lines.append(f"{who} {note}")
    return lines


def shared(trials: Sequence[Trial], keys: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Which of `keys` say one thing in all trials that say anything (and what), and which differ."""
    # a CNN has no deformable attention: its kernel is "none", which says nothing about the others
    values = {key: {trial[key] for trial in trials if trial[key] not in ("", "none")} for key in keys}
    return {k: v.copy().pop() for k, v in values.items() if len(v) == 1}, [k for k, v in values.items() if len(v) > 1]
