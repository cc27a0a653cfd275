"""Runs as rows: what the report, the sweep's last lines and `--json` say about each trial."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol, TypedDict

from rich import box
from rich.markup import escape
from rich.table import Table

from piip.reports.pareto import pareto_front

PARENT = "mlflow.parentRunId"


class Run(Protocol):
    """What is read of a run; `piip.tracking.store.RunInfo` has it all."""

    run_id: str
    name: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    start_ms: int


class Trial(TypedDict):
    """One trial in plain values. What a run never logged is None."""

    number: int
    """From 1, best box AP first; figures fall back to it where a name has no room."""
    run_id: str
    name: str
    label: str
    """The shortest name that is unique among the trials, e.g. `PIIP-TSB 256/192/128`."""
    family: str
    """`PIIP-TSB`, `ViT-B`, `ResNet-18`: what is drawn in one colour."""
    kind: str
    """`piip`, `vit`, `cnn` or `unknown`."""
    branches: list[str]
    """timm names, high to low resolution."""
    resolutions: list[int]
    kernel: str
    engine: str
    status: str
    box_ap: float | None
    """Best over the training, 0..1."""
    mask_ap: float | None
    gflops: float | None
    params_m: float | None
    images_per_second: float | None
    peak_memory_gb: float | None
    minutes: float | None
    """From the run's start to the last metric it recorded; only where histories were given."""
    note: str
    front: bool
    """On the Pareto front of box AP against GFLOPs."""


def trials_of(runs: Sequence[Run]) -> list[Run]:
    """The runs that train a network: a sweep's parent run is left out."""
    parents = {run.tags.get(PARENT) for run in runs}
    return [
        run for run in runs if PARENT in run.tags or ("model.backbone.kind" in run.params and run.run_id not in parents)
    ]


def summary(runs: Sequence[Run], last_ms: Mapping[str, int] | None = None) -> list[Trial]:
    """One row per trial, best box AP first; trials without AP (failed, still running) come last and are not dropped.

    Args:
        runs: All runs of an experiment, parents included.
        last_ms: Time of the last recorded metric by run id, in milliseconds; fills `minutes`.
    """
    rows = [_row(run, (last_ms or {}).get(run.run_id)) for run in trials_of(runs)]
    rows.sort(key=lambda row: (-_or(row["box_ap"], -1.0), row["name"]))
    labels = _unique_labels(rows, {run.run_id: run.params for run in runs})
    on_front = {row["run_id"] for row in front(rows, "gflops")}
    for number, (row, label) in enumerate(zip(rows, labels, strict=True), start=1):
        row["number"], row["label"], row["front"] = number, label, row["run_id"] in on_front
    return rows


def front(rows: Sequence[Trial], cost: str) -> list[Trial]:
    """The trials no other beats in box AP at equal or lower `cost` ("gflops" or "params_m"), cheapest first."""
    measured = [row for row in rows if row["box_ap"] is not None and row[cost] is not None]
    return [measured[i] for i in pareto_front([(row[cost], _or(row["box_ap"], 0.0)) for row in measured])]


def _row(run: Run, last_ms: int | None) -> Trial:
    family, kind = family_of(run)
    branches, resolutions = _branches(run.params)
    return Trial(
        number=0, run_id=run.run_id, name=run.name, label=family, family=family, kind=kind,
        branches=branches, resolutions=resolutions,
        kernel=run.tags.get("piip.kernel", ""),
        engine=run.tags.get("piip.engine") or run.params.get("train.engine", ""),
        status=run.status.lower(),
        box_ap=_metric(run, "best/coco/box_ap", "coco/box_ap"),
        mask_ap=_metric(run, "best/coco/mask_ap", "coco/mask_ap"),
        gflops=_metric(run, "cost/gflops"),
        params_m=_metric(run, "cost/params_m"),
        images_per_second=_metric(run, "train/images_per_second"),
        peak_memory_gb=_metric(run, "cost/peak_memory_gb"),
        minutes=None if last_ms is None else max(0, last_ms - run.start_ms) / 60_000,
        note=run.tags.get("piip.note") or run.tags.get("piip.error", ""),
        front=False,
    )  # fmt: skip


def _metric(run: Run, *names: str) -> float | None:
    """The first of `names` the run has logged as a finite number."""
    found = (run.metrics[name] for name in names if math.isfinite(run.metrics.get(name, math.nan)))
    return next(found, None)


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _branches(params: Mapping[str, str]) -> tuple[list[str], list[int]]:
    """Networks and their image sizes, high to low resolution, from flat params."""
    archs, resolutions = [], []
    for i in range(len(params)):
        prefix = f"model.backbone.branches.{i}."
        if prefix + "arch" not in params:
            break
        archs.append(params[prefix + "arch"])
        resolutions.append(int(params[prefix + "resolution"]))
    if not archs and "model.backbone.arch" in params:
        return [params["model.backbone.arch"]], [int(params["model.backbone.resolution"])]
    return archs, resolutions


def family_of(run: Run) -> tuple[str, str]:
    """`("PIIP-TSB", "piip")`, `("ViT-B", "vit")`, `("ResNet-18", "cnn")`; a run without a spec is its own family."""
    archs, _ = _branches(run.params)
    letters = run.params.get("model.backbone.label", "").upper()
    match run.params.get("model.backbone.kind"):
        case "piip" if len(archs) > 1:
            return f"PIIP-{letters or len(archs)}", "piip"
        case "piip":
            return f"ViT-{letters or archs[0].split('.')[0]}", "vit"
        case "cnn":
            arch = archs[0].split(".")[0]
            return re.sub(r"^resne(x?)t(\d+)", r"ResNe\1t-\2", arch), "cnn"
        case _:
            return run.name, "unknown"


def _unique_labels(rows: Sequence[Trial], params: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Family and resolutions; where several trials share these, also what tells them apart."""
    plain = [" ".join(filter(None, [row["family"], "/".join(map(str, row["resolutions"]))])) for row in rows]
    alike: dict[str, list[int]] = defaultdict(list)
    for i, label in enumerate(plain):
        alike[label].append(i)
    labels = list(plain)
    for label, members in alike.items():
        if len(members) == 1:
            continue
        suffixes = [_difference(i, members, rows, params) for i in members]
        distinct = len(set(suffixes)) == len(suffixes)
        for order, (i, suffix) in enumerate(zip(members, suffixes, strict=True), start=1):
            labels[i] = f"{label} {suffix}" if distinct else f"{label} {suffix} ({order})".replace("  ", " ")
    return labels


def _difference(i: int, members: Sequence[int], rows: Sequence[Trial], params: Mapping[str, Mapping[str, str]]) -> str:
    """Up to two params of trial `i` that its look-alikes have otherwise, e.g. `scratch` or `lr=0.0003`."""
    mine = params[rows[i]["run_id"]]
    others = [params[rows[j]["run_id"]] for j in members]
    words = []
    for key, value in mine.items():
        if key == "name" or key.startswith("paper") or all(other.get(key) == value for other in others):
            continue
        leaf = key.rsplit(".", 1)[-1]
        word = f"{leaf}={value}"
        if leaf == "pretrained":
            word = "pretrained" if value == "True" else "scratch"
        if word not in words:
            words.append(word)
    return ", ".join(words[:2])


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


def trial_table(runs: Sequence[Run], last_ms: Mapping[str, int] | None = None) -> Table:
    """The trials as a terminal table, best first, 80 columns wide where names are short.

    Columns without a figure are left out. Below the table: notes, and kernel and engine where all trials share them.
    """
    rows = summary(runs, last_ms)
    same, differing = shared([row for row in rows if row["box_ap"] is not None] or rows, ("kernel", "engine"))
    figures = [column for column in COLUMNS if any(row[column[2]] is not None for row in rows)]
    below = ["◆ Pareto front: no trial has a higher box AP at equal or fewer GFLOPs"]
    below += [", ".join(f"{key} {value}" for key, value in same.items())] if same else []
    below += [f"#{row['number']} {row['note']}" for row in rows if row["note"]]
    table = Table(box=box.SIMPLE_HEAD, caption=escape("\n".join(below)), caption_justify="left", pad_edge=False)
    table.padding = (0, 1, 0, 0)
    table.add_column("#", justify="right", no_wrap=True, min_width=2)
    table.add_column("", no_wrap=True, min_width=1)
    table.add_column("trial", no_wrap=True)
    for _, heading, _, _ in figures:
        table.add_column(heading, justify="right", min_width=4)
    table.add_column("status", no_wrap=True, min_width=8)
    for heading in differing:
        table.add_column(heading, overflow="fold")
    for row in rows:
        cells = [row["label"], *(number(row[key], form) for _, _, key, form in figures)]
        status = f"[{STYLE.get(row['status'], 'cyan')}]{row['status']}[/]"
        tail = [escape(row[key]) for key in differing]
        table.add_row(str(row["number"]), "◆" if row["front"] else "", *map(escape, cells), status, *tail)
    return table


def shared(rows: Sequence[Trial], keys: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Which of `keys` say one thing in all rows that say anything (and what), and which differ."""
    values = {key: {row[key] for row in rows if row[key]} for key in keys}
    return {k: v.copy().pop() for k, v in values.items() if len(v) == 1}, [k for k, v in values.items() if len(v) > 1]
