"""Runs as rows of plain values: what the table, the page and `--json` say about each trial."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypedDict

from piip.reports.pareto import pareto_front
from piip.tracking.store import RunInfo

PARENT = "mlflow.parentRunId"
FEW_STEPS = 500
"""The paper's warm-up alone: after fewer steps, what starts from random weights (merge, interactions, heads) decides the order."""


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
    """Mean over the training; of a trial that was never evaluated, the last logged."""
    peak_memory_gb: float | None
    steps: int | None
    """Optimizer steps of the schedule."""
    minutes: float | None
    """Wall time of the worker's last attempt, known when the trial ended."""
    note: str
    front: bool
    """On the Pareto front of box AP against GFLOPs."""


def trials_of(runs: Sequence[RunInfo]) -> list[RunInfo]:
    """The runs that train a network: a sweep's parent run is left out."""
    parents = {run.tags.get(PARENT) for run in runs}
    return [
        run for run in runs if PARENT in run.tags or ("model.backbone.kind" in run.params and run.run_id not in parents)
    ]


def summary(runs: Sequence[RunInfo]) -> list[Trial]:
    """One row per trial, best box AP first; trials without AP (failed, still running) come last and are not dropped.

    Args:
        runs: All runs of an experiment, parents included.
    """
    rows = [_row(run) for run in trials_of(runs)]
    rows.sort(key=lambda row: (-_or(row["box_ap"], -1.0), row["name"]))
    labels = _unique_labels(rows, {run.run_id: run.params for run in runs})
    on_front = {row["run_id"] for row in front(rows, "gflops")}
    for number, (row, label) in enumerate(zip(rows, labels, strict=True), start=1):
        row["number"], row["label"], row["front"] = number, label, row["run_id"] in on_front
    return rows


def front(rows: Sequence[Trial], cost: str) -> list[Trial]:
    """The trials no other beats in box AP, to the three decimals shown, at equal or lower `cost`, cheapest first.

    Args:
        rows: Trials; those without AP or cost are left out.
        cost: "gflops" or "params_m".
    """
    measured = [row for row in rows if row["box_ap"] is not None and row[cost] is not None]
    return [measured[i] for i in pareto_front([(row[cost], round(_or(row["box_ap"], 0.0), 3)) for row in measured])]


def too_short(rows: Sequence[Trial]) -> str:
    """A line for trials that are to be compared and were trained too little for it; empty where they were not."""
    short = [row["steps"] for row in rows if row["steps"] is not None and row["steps"] < FEW_STEPS]
    if len(rows) < 2 or not short:
        return ""
    steps = " to ".join(dict.fromkeys(map(str, (min(short), max(short)))))
    return f"too short to rank networks: {steps} steps (pico_long.py takes 1200)"


def _row(run: RunInfo) -> Trial:
    family, kind = family_of(run)
    seconds = _metric(run, "time/worker_seconds")
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
        images_per_second=_metric(run, "train/images_per_second_mean", "train/images_per_second"),
        peak_memory_gb=_metric(run, "cost/peak_memory_gb"),
        steps=_steps(run),
        minutes=None if seconds is None else seconds / 60,
        note="; ".join(filter(None, (run.tags.get(tag, "") for tag in ("piip.failure", "piip.note")))),
        front=False,
    )  # fmt: skip


def _steps(run: RunInfo) -> int | None:
    """Steps a run is to train; None where its params and the size of its data do not tell."""
    steps, epochs = (run.params.get(f"train.{name}", "None") for name in ("steps", "epochs"))
    if steps != "None":
        return int(steps)
    batch_size, images = int(run.params.get("train.batch_size", 1)), int(run.tags.get("data.train.count", 0))
    return math.ceil(float(epochs) * math.ceil(images / batch_size)) if epochs != "None" and images else None


def _metric(run: RunInfo, *names: str) -> float | None:
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


def family_of(run: RunInfo) -> tuple[str, str]:
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
        suffixes, distinct = _suffixes([_differences(i, members, rows, params) for i in members])
        for order, (i, suffix) in enumerate(zip(members, suffixes, strict=True), start=1):
            labels[i] = f"{label} {suffix}" if distinct else f"{label} {suffix} ({order})".replace("  ", " ")
    return labels


def _suffixes(differences: Sequence[Sequence[str]]) -> tuple[list[str], bool]:
    """Look-alikes' words in short, and whether that tells them apart: the first two words, more where two do not."""
    for most in range(2, max(2, *map(len, differences)) + 1):
        suffixes = [", ".join(words[:most]) for words in differences]
        if len(set(suffixes)) == len(suffixes):
            return suffixes, True
    return [", ".join(words[:2]) for words in differences], False


def _differences(
    i: int, members: Sequence[int], rows: Sequence[Trial], params: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """The params of trial `i` that its look-alikes have otherwise, e.g. `scratch` or `lr=0.0003`."""
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
    return words
