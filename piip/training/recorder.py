"""What a worker writes down of its trial: rank 0 into the journal, the others nothing."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist

from piip import home
from piip.contracts import Score
from piip.record.journal import Journal
from piip.scratch import scratch
from piip.training import checkpoint, saving
from piip.training.manifest import Manifest


class Recorder:
    """One attempt at a trial, on one rank; an attempt that begins fences the one before off.

    Args:
        key: The trial's.
        rank: Of this worker.
        world_size: Number of workers.
    """

    def __init__(self, key: str, *, rank: int, world_size: int) -> None:
        self._journal = Journal(home.journal_dir(key), attempt=_attempt()) if rank == 0 else None
        self._world_size = world_size

    def doing(self, what: str) -> None:
        """Announces what takes time before the first step."""
        if self._journal:
            self._journal.doing(what)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of a step; it never waits for a network."""
        if self._journal:
            self._journal.log(step, metrics)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Tags of the run.

        Raises:
            Fenced: Another attempt at the trial has begun: this one must write no checkpoints either.
        """
        if self._journal:
            self._journal.tag(tags)

    def keep_predictions(
        self, results: pa.Table, classes: Sequence[Mapping[str, Any]] = (), *, last: bool, best: bool
    ) -> None:
        """Keeps an evaluation's results with the run, where they are those of its end or the best so far.

        Args:
            results: Of every image.
            classes: Numbers of every class, for `predictions/val_per_class.json`.
            last: They are those of the end.
            best: They are the best so far.

        Raises:
            Fenced: Another attempt at the trial has begun; nothing of its files was touched.
        """
        if not self._journal:
            return
        # in a folder of this attempt's own: what others read is replaced whole, and only by who may write
        with scratch(self._journal.folder, ".predictions-") as own:
            predictions, per_class = own / "predictions.parquet", own / "per_class.json"
            pq.write_table(results, predictions)
            per_class.write_text(json.dumps(list(classes), indent=1))
            for name in [name for name, wanted in {"val": last, "best": best}.items() if wanted]:
                self._journal.artifact(predictions, f"predictions/{name}.parquet")
                if classes:
                    self._journal.artifact(per_class, f"predictions/{name}_per_class.json")
            predictions.replace(self._journal.folder / predictions.name)  # for piip/evaluation/pictures.py to draw

    def has(self, name: str, step: int) -> bool:
        """Whether a metric of `step` is recorded; every rank gets rank 0's answer. Collective."""
        answer = [self._journal is not None and step in dict(self._journal.history(name))]
        if self._world_size > 1:
            dist.broadcast_object_list(answer, src=0)
        return answer[0]

    def spent_before(self, manifest: Manifest) -> dict[str, float]:
        """What the attempts before took: as the checkpoint says, or the journal, which knows the evaluation after it too."""
        if not self._journal:
            return {}
        recorded = {name: dict(self._journal.history(name)).get(manifest.step) for name in manifest.spent}
        return manifest.spent | {name: value for name, value in recorded.items() if value is not None}

    def finish(self) -> None:
        """The trial is done."""
        if self._journal:
            self._journal.finish("FINISHED")


def best_so_far(root: Path, score: Score, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
    """`best/...` of an evaluation that no earlier one of the trial beats; its checkpoint is kept from then on.

    Args:
        root: The trial's checkpoints.
        score: What ranks them.
        step: Of the evaluation.
        metrics: What it found; without the score (a split without objects) it is not the best.
    """
    if not is_best(root, score, step, metrics):
        return {}
    saving.mark_best(root, step, metrics[score.name])
    return {f"best/{name}": value for name, value in metrics.items()}


def is_best(root: Path, score: Score, step: int, metrics: Mapping[str, float]) -> bool:
    """Whether no earlier evaluation of the trial beats this one; arguments as of `best_so_far`."""
    if score.name not in metrics:
        return False
    mark = checkpoint.best_mark(root)
    # `step` is the best already where a crash came between the mark and the journal
    return mark is None or step == mark[0] or score.better(metrics[score.name], mark[1])


def _attempt() -> str:
    """Orders the attempts at one trial in time; a later one fences an earlier one's writes."""
    return f"{time.time_ns():020d}-{os.getpid()}"
