"""The trials as a terminal table: the sweep's last lines and what `python -m piip.report` prints."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from piip.reports.trials import Trial, summary, too_short
from piip.tracking.store import RunInfo

__all__ = ["COLUMNS", "number", "shared", "summary", "table_of", "trial_table"]


def number(value: float | None, form: str = ".3f") -> str:
    """A figure for people; an en dash where there is none."""
    return "–" if value is None else format(value, form)


COLUMNS: list[tuple[str, str, str, str]] = [
    ("box AP", "box\nAP", "box_ap", ".3f"),
    ("mask AP", "mask\nAP", "mask_ap", ".3f"),
    ("GFLOPs", "GFLOPs", "gflops", ".2f"),
    ("params, M", "params\nM", "params_m", ".2f"),
    ("images/s", "img\n/s", "images_per_second", ".1f"),
    ("peak GB", "peak\nGB", "peak_memory_gb", ".2f"),
    ("minutes", "min", "minutes", ".1f"),
]
"""Heading on the page and in the terminal, key of `Trial` and format of the columns that hold figures."""

STYLE = {"finished": "green", "failed": "bold red", "killed": "red", "running": "yellow"}


def trial_table(runs: Sequence[RunInfo], width: int = 80) -> Table:
    """The trials among `runs` (a sweep's parent may be among them) as a terminal table; see `table_of`."""
    return table_of(summary(runs), width)


def table_of(rows: Sequence[Trial], width: int = 80) -> Table:
    """Trials as a terminal table, best first, 80 columns wide where names are short.

    Columns without a figure are left out. Below the table: notes, and kernel and engine where all trials share them.

    Args:
        rows: From `summary`.
        width: Characters; where they leave room for it, the beginning of each run's id (enough for --run-id) is a column.
    """
    wide = _table(rows, ids=True)
    return wide if Console(width=1000).measure(wide).maximum <= width else _table(rows, ids=False)


def _table(rows: Sequence[Trial], *, ids: bool) -> Table:
    same, differing = shared([row for row in rows if row["box_ap"] is not None] or rows, ("kernel", "engine"))
    figures = [column for column in COLUMNS if any(row[column[2]] is not None for row in rows)]
    below = ["◆ Pareto front: no trial has a higher box AP at equal or fewer GFLOPs"]
    below += [short] if (short := too_short(rows)) else []
    below += [", ".join(f"{key} {value}" for key, value in same.items())] if same else []
    for note in dict.fromkeys(row["note"] for row in rows if row["note"]):
        who = " ".join(f"#{row['number']}" for row in rows if row["note"] == note)
        below.append(f"{who} {note}")
    table = Table(box=box.SIMPLE_HEAD, caption=escape("\n".join(below)), caption_justify="left", pad_edge=False)
    table.padding = 0
    table.add_column("#", justify="right", no_wrap=True, min_width=2)
    table.add_column("", no_wrap=True, min_width=1)
    table.add_column("trial", no_wrap=True)
    for _, heading, _, _ in figures:
        table.add_column(heading, justify="right", min_width=4)
    table.add_column("status", no_wrap=True, min_width=8)
    for heading in differing:
        table.add_column(heading, overflow="fold")
    if ids:
        table.add_column("run", no_wrap=True)
    for row in rows:
        cells = [row["label"], *(number(row[key], form) for _, _, key, form in figures)]
        status = f"[{STYLE.get(row['status'], 'cyan')}]{row['status']}[/]"
        tail = [escape(row[key]) for key in differing] + ([row["run_id"][:8]] if ids else [])
        table.add_row(str(row["number"]), "◆" if row["front"] else "", *map(escape, cells), status, *tail)
    return table


def shared(rows: Sequence[Trial], keys: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Which of `keys` say one thing in all rows that say anything (and what), and which differ."""
    # a CNN has no deformable attention: its kernel is "none", which says nothing about the others
    values = {key: {row[key] for row in rows if row[key] not in ("", "none")} for key in keys}
    return {k: v.copy().pop() for k, v in values.items() if len(v) == 1}, [k for k, v in values.items() if len(v) > 1]
