"""The trials as a terminal table: the sweep's last lines and what `python -m piip.report` prints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

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


def columns(ranking: Ranking) -> list[Column]:
    """Scores and their details, then what they cost."""
    return [*map(_column, (*ranking.scores, *ranking.details)), *COSTS]


def _column(score: Score) -> Column:
    text = words.heading(score)
    # the label's words one below the other, the arrow beside the last
    short = "\n".join(score.label.split()) + text.removeprefix(score.label)
    return Column(text, short, ".3f", lambda trial: _figures(trial).get(score.name), low=score.mode == "min")


def _figures(trial: Trial) -> dict[str, float | None]:
    return trial["scores"] | trial["details"]


STYLE = {"finished": "green", "failed": "bold red", "interrupted": "red", "running": "yellow"}


def tables(ranked: Sequence[Ranking], width: int = 80) -> Group:
    """A terminal table for each ranking; see `table_of`."""
    return Group(*(part for ranking in ranked for part in (table_of(ranking, width), "")))


def table_of(ranking: Ranking, width: int = 80) -> Group:
    """Trials as a terminal table, best first; what they were scored on above it, notes and what all of them share below.

    Columns without a figure are left out, and of the others those that matter least until the table fits: names, score, status and the
    beginning of each run's id (enough for --run-id) stay.

    Args:
        ranking: Of one score on the same data.
        width: Characters.
    """
    figures = [c for c in columns(ranking) if any(c.of(trial) is not None for trial in ranking.trials)]
    same, differing = shared(ranking.scored or ranking.trials, ("kernel", "engine"))
    extra, left_out = _by_importance(ranking, figures, differing), list[str]()
    table = _table(ranking, figures, differing, width)
    while extra and Console(width=1000).measure(table).maximum > width:
        left_out.insert(0, extra.pop())
        table = _table(
            ranking, [c for c in figures if c.heading not in left_out], [d for d in differing if d in extra], width
        )
    below = _below(ranking, same) + ([f"no room for {', '.join(left_out)}"] if left_out else [])
    return Group(
        Text(f"by {ranking.score.label} on {ranking.data}", style="bold"), table, Text("\n".join(below), style="italic")
    )


def _by_importance(ranking: Ranking, figures: Sequence[Column], differing: Sequence[str]) -> list[str]:
    """Headings of columns that a narrow table may be without, what matters most first."""
    gflops, params, speed, memory, minutes = (column.heading for column in COSTS)
    scores, details = ([_column(score).heading for score in shown] for shown in (ranking.scores[1:], ranking.details))
    order = [gflops, *scores, params, *differing, minutes, *details, memory, speed]
    there = {column.heading for column in figures} | set(differing)
    return [heading for heading in order if heading in there]


def _table(ranking: Ranking, figures: Sequence[Column], differing: Sequence[str], width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.padding = 0
    table.add_column("#", justify="right", no_wrap=True, min_width=2)
    table.add_column("", no_wrap=True, min_width=1)
    table.add_column("trial", max_width=max(20, width // 2 - 6))
    for column in figures:
        table.add_column(column.short, justify="right", min_width=4, no_wrap=True)
    table.add_column("status", no_wrap=True, min_width=8)
    for heading in differing:
        table.add_column(heading, overflow="fold")
    table.add_column("run", no_wrap=True)
    for trial in ranking.trials:
        cells = [trial["label"], *(number(column.of(trial), column.form) for column in figures)]
        status = f"[{STYLE.get(trial['status'], 'cyan')}]{trial['status']}[/]"
        tail = [*(escape(trial[key]) for key in differing), _short_id(trial["run_id"])]
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
