"""Runs as rows of plain values: what the table, the page and `--json` say about each trial."""

import math
from collections.abc import Sequence
from typing import TypedDict

from piip.contracts import Score
from piip.record.scores import details_of
from piip.reports.naming import branches_of, family_of
from piip.tracking.store import RunInfo

PARENT = "mlflow.parentRunId"
STATUS = {"KILLED": "interrupted", "PENDING": "waiting"}
"""Statuses that people have another word for: ended by Ctrl-C, not begun; the same command goes on with both."""


class Trial(TypedDict):
    """One trial in plain values. What a run never logged is None."""

    number: int
    """From 1, best score first; figures fall back to it where a name has no room."""
    run_id: str
    name: str
    label: str
    """The shortest name that is unique among the trials, e.g. `PIIP-TSB 256/192/128`."""
    family: str
    """`PIIP-TSB`, `ViT-B`, `ResNet-18`: what is drawn in one colour."""
    kind: str
    """`piip`, `vit`, `cnn` or `other`."""
    branches: list[str]
    """timm names, high to low resolution."""
    resolutions: list[int]
    kernel: str
    engine: str
    status: str
    score_name: str
    """Which metric ranks it."""
    score: float | None
    """The best over the training."""
    scores: dict[str, float | None]
    """All scores of its data by name, the one that ranks first; of the best evaluation."""
    details: dict[str, float | None]
    """What is shown beside them, by name, of the same evaluation; what any of the ranking's trials has logged."""
    data: str
    """What it was scored on: `birds (80 images)`."""
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
    """On the Pareto front of the score against GFLOPs, among trials that the same score on the same data ranks."""


def trials_of(runs: Sequence[RunInfo]) -> list[RunInfo]:
    """The runs that train a network: a sweep's parent run is left out."""
    parents = {run.tags.get(PARENT) for run in runs}
    return [
        run for run in runs if PARENT in run.tags or ("model.backbone.kind" in run.params and run.run_id not in parents)
    ]


def row(run: RunInfo, scores: Sequence[Score], data: str) -> Trial:
    """A run in plain values; what depends on the other trials (number, label, front) is yet to be filled in.

    Args:
        run: A trial.
        scores: What to show of it, the one that ranks first.
        data: What it was scored on.
    """
    family, kind = family_of(run)
    seconds = _metric(run, "time/worker_seconds")
    branches, resolutions = branches_of(run.params)
    values, details = ({score.name: _best(run, score) for score in shown} for shown in (scores, details_of(scores)))
    return Trial(
        number=0, run_id=run.run_id, name=run.name, label=family, family=family, kind=kind,
        branches=branches, resolutions=resolutions,
        kernel=run.tags.get("piip.kernel", ""),
        engine=run.tags.get("piip.engine") or run.params.get("train.engine", ""),
        status=STATUS.get(run.status, run.status.lower()),
        score_name=scores[0].name,
        score=values[scores[0].name],
        scores=values,
        details=details,
        data=data,
        gflops=_metric(run, "cost/gflops"),
        params_m=_metric(run, "cost/params_m"),
        images_per_second=_metric(run, "train/images_per_second_mean", "train/images_per_second"),
        peak_memory_gb=_metric(run, "cost/peak_memory_gb"),
        steps=_steps(run),
        minutes=None if seconds is None else seconds / 60,
        note="; ".join(filter(None, (run.tags.get(tag, "") for tag in ("piip.failure", "piip.note")))),
        front=False,
    )  # fmt: skip


def _best(run: RunInfo, score: Score) -> float | None:
    """A score at the best evaluation."""
    return _metric(run, f"best/{score.name}", score.name)


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
