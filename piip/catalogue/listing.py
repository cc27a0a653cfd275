"""Rows as a table: what they cost, ours beside the paper's."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from piip.catalogue.preflight import cost_of
from piip.spec import ExperimentSpec

CAPTION = "real: the whole network at its largest input, attention and sampling counted"
PUBLISHED = "published: by the papers' convention (piip/counting/published.py), ours and theirs"
COLUMNS = ("row", "real GFLOPs", "params M", "published GFLOPs", "paper's", "params M", "paper's", "paper's result")
OURS = 3
"""Columns that every row fills; the others are the papers'."""


def counting(specs: Sequence[ExperimentSpec], *, quiet: bool) -> Iterator[ExperimentSpec]:
    """The rows one by one; on a terminal's stderr, while they are counted: which, how many of all, how many a second.

    All rows take a minute. Nothing of it stays, and nothing is said where `quiet` or where stderr is no terminal.
    """
    screen = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=screen, transient=True, disable=quiet or not screen.is_terminal) as bar:
        task, began = bar.add_task("", total=len(specs)), time.monotonic()
        for done, spec in enumerate(specs):
            rate = f"{done / (time.monotonic() - began):.1f} rows/s, " if done else ""
            bar.update(task, completed=done, description=f"{rate}counting {spec.name}", refresh=True)
            yield spec


def list_rows(
    specs: Sequence[ExperimentSpec], *, as_json: bool, markdown: bool = False, size: tuple[int, int] | None = None
) -> int:
    """Print rows with cost, ours beside the paper's where it has any, at `size` (height, width) or each at its largest input."""
    entries = [entry(spec, size) for spec in counting(specs, quiet=as_json)]
    if as_json:
        print(json.dumps(entries))
        return 0
    if not entries:
        return 0
    columns, lines = _filled(COLUMNS, [cells(e) for e in entries])
    if markdown:
        print(f"| {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) - 2)}---|")
        for line in lines:
            print(f"| {' | '.join(line)} |")
        return 0
    caption = [CAPTION, *([PUBLISHED] if len(columns) > OURS else []), "MAC = 1 FLOP"]
    table = Table(caption="; ".join(caption))
    for column in columns:
        table.add_column(column, justify="left" if column == "row" else "right", no_wrap=column == "row")
    for line in lines:
        table.add_row(*line)
    Console(width=max(140, Console().width)).print(table)
    for spec in specs:
        if spec.paper and spec.paper.note:
            print(f"{spec.name}: {spec.paper.note}")
    return 0


def _filled(columns: Sequence[str], lines: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The table without those columns of the papers' that say nothing of any row."""
    kept = [i for i in range(len(columns)) if i < OURS or any(line[i] != "-" for line in lines)]
    return [columns[i] for i in kept], [[line[i] for i in kept] for line in lines]


def entry(spec: ExperimentSpec, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """A row's cost and the paper's figures, as `--json` prints them."""
    from piip.counting.published import published

    its_cost, count = cost_of(spec, size), published(spec.model)
    return {
        "name": spec.name,
        "digest": spec.digest,
        "gflops": its_cost.gflops,
        "params_m": its_cost.params_m,
        "backbone": {"gflops": its_cost.backbone_gflops, "params_m": its_cost.backbone_params_m},
        "published": {"gflops": count.flops / 1e9, "params_m": count.params / 1e6} if count else None,
        "paper": spec.paper.model_dump() if spec.paper else {},
        "scores": [asdict(score) for score in spec.data.scores],
    }


def cells(entry: dict[str, Any]) -> list[str]:
    """An entry as a line of the table."""
    published, paper = entry["published"] or {}, entry["paper"]
    return [
        entry["name"],
        _number(entry["gflops"]),
        _number(entry["params_m"]),
        *(text for k in ("gflops", "params_m") for text in (_number(published.get(k)), _printed(paper.get(k)))),
        result(paper, entry["scores"]),
    ]


def result(paper: dict[str, Any], scores: Sequence[dict[str, str]]) -> str:
    """The paper's figures for a row's scores: `43.6 / 38.7 AP`, `58.42 mIoU`; a dash where it has none.

    Args:
        paper: Of `entry`.
        scores: Of `entry`.
    """
    found = [(s["label"], paper[key]) for s in scores if paper.get(key := s["name"].rpartition("/")[2])]
    if not found:
        return "-"
    # what two labels have in common (AP of boxes, of masks) is said once
    ends = {label.split()[-1] if len(found) > 1 else label for label, _ in found}
    figures = " / ".join(max(f"{value:.1f}", f"{value:g}", key=len) for _, value in found)
    return f"{figures} {ends.pop() if len(ends) == 1 else ' / '.join(label for label, _ in found)}"


def _number(value: float | None) -> str:
    """Two decimals where they say something."""
    return (
        "-" if value is None else f"{value:.2f}" if value < 100 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"
    )


def _printed(value: float | None) -> str:
    """As the paper has it."""
    return "-" if value is None else f"{value:g}"
