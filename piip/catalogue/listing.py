"""Rows as a table: what they cost, ours beside the paper's."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from piip.catalogue.preflight import cost_of
from piip.spec import ExperimentSpec

CAPTION = "real: the whole network at its largest input, attention and sampling counted"
PUBLISHED = "published: by the papers' convention (piip/counting/published.py), ours and theirs"
COLUMNS = ("row", "real GFLOPs", "params M", "published GFLOPs", "paper's", "params M", "paper's", "paper's result")
OURS = 3
"""Columns that every row fills; the others are the papers'."""


def counting(specs: Sequence[ExperimentSpec], *, quiet: bool) -> Iterator[ExperimentSpec]:
    """The rows one by one; on a terminal's stderr, while they are counted: which, how many of all, how many a second.

    All rows take minutes when they are counted first. Nothing of it stays, and nothing is said where `quiet` or where stderr is no
    terminal. What the caller prints meanwhile goes above it where both are on one terminal.
    """
    screen = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    off, together = quiet or not screen.is_terminal, sys.stdout.isatty()
    with Progress(*columns, console=screen, transient=True, disable=off, redirect_stdout=together) as bar:
        task, began = bar.add_task("", total=len(specs)), time.monotonic()
        for done, spec in enumerate(specs):
            rate = f"{done / (time.monotonic() - began):.1f} rows/s, " if done else ""
            bar.update(task, completed=done, description=f"{rate}counting {spec.name}", refresh=True)
            yield spec


def list_rows(
    specs: Sequence[ExperimentSpec], *, as_json: bool, markdown: bool = False, size: tuple[int, int] | None = None
) -> int:
    """Print rows with cost, ours beside the paper's where it has any, at `size` (height, width) or each at its largest input.

    Each as soon as it is counted; JSON is one document at the end.
    """
    if as_json:
        print(json.dumps([entry(spec, size) for spec in counting(specs, quiet=True)]))
        return 0
    if not specs:
        return 0
    table = _Table(specs, markdown=markdown)
    print(table.head, flush=True)
    for spec in counting(specs, quiet=False):
        print(table.line(cells(entry(spec, size))), flush=True)
    if markdown:
        return 0
    print(f"\n{CAPTION}{f'; {PUBLISHED}' if table.has_papers else ''}; MAC = 1 FLOP")
    notes: dict[str, list[str]] = {}
    for spec in specs:
        if spec.paper and spec.paper.note:
            notes.setdefault(spec.paper.note, []).append(spec.name)
    for note, names in notes.items():
        print(f"{', '.join(names)}: {note}")
    return 0


class _Table:
    """Lines of a table that is printed as it is made: which columns there are, and how wide, is known without counting.

    Args:
        specs: Its rows.
        markdown: In Markdown's form.
    """

    def __init__(self, specs: Sequence[ExperimentSpec], *, markdown: bool) -> None:
        known = [cells(_known(spec)) for spec in specs]
        # columns of the papers' that say nothing of any row are left out
        self._kept = [i for i in range(len(COLUMNS)) if i < OURS or any(line[i] != "-" for line in known)]
        self._widths = [max(len(line[i]) for line in (COLUMNS, *known)) for i in self._kept]
        self._markdown = markdown

    @property
    def has_papers(self) -> bool:
        """Whether one of the columns is the papers'."""
        return len(self._kept) > OURS

    @property
    def head(self) -> str:
        """Names of the columns, and what is drawn below them."""
        below = f"|---|{'---:|' * (len(self._kept) - 2)}---|" if self._markdown else "-" * len(self.line(COLUMNS))
        return f"{self.line(COLUMNS)}\n{below}"

    def line(self, row: Sequence[str]) -> str:
        """All cells of a row, of which those of this table are shown."""
        kept = [row[i] for i in self._kept]
        if self._markdown:
            return f"| {' | '.join(kept)} |"
        name, *figures = (
            f"{cell:{'>' if n else '<'}{width}}" for n, (cell, width) in enumerate(zip(kept, self._widths, strict=True))
        )
        return "  ".join([name, *figures])


def entry(spec: ExperimentSpec, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """A row's cost and the paper's figures, as `--json` prints them."""
    its_cost = cost_of(spec, size)
    return _known(spec) | {
        "gflops": its_cost.gflops,
        "params_m": its_cost.params_m,
        "backbone": {"gflops": its_cost.backbone_gflops, "params_m": its_cost.backbone_params_m},
    }


def _known(spec: ExperimentSpec) -> dict[str, Any]:
    """What `entry` has without counting; of what is counted, nothing yet."""
    from piip.counting.published import published

    count = published(spec.model)
    return {
        "name": spec.name,
        "digest": spec.digest,
        "task": spec.data.task,
        "data": spec.data.name,
        "head": spec.model.head.words(),
        "network": f"{spec.model.backbone.title}: {spec.model.backbone.words}",
        "gflops": None,
        "params_m": None,
        "backbone": None,
        "published": {"gflops": count.flops / 1e9, "params_m": count.params / 1e6} if count else None,
        "paper": spec.paper.model_dump() if spec.paper else {},
        "scores": [asdict(score) for score in spec.scores],
    }


def explained(specs: Sequence[ExperimentSpec]) -> list[str]:
    """What the parts of these rows' names say, a line each: heads, then backbones."""
    heads = {spec.model.head.kind: spec.model.head.words() for spec in specs}
    backbones = {spec.model.backbone.row_name.split("_")[0]: spec.model.backbone.words for spec in specs}
    wide = max(map(len, (*heads, *backbones)), default=0)
    return [f"{part:{wide}}  {said}" for parts in (heads, backbones) for part, said in sorted(parts.items())]


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
