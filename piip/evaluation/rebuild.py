"""A run back from MLflow and its checkpoint of ours: its spec, its data, its network with the trained weights.

The checkpoint is one that training here wrote (piip/training/checkpoint.py: safetensors and a manifest with the classes), last or best
by the data set's first score. Files of other code bases come in by `piip convert` and the spec's `weights`, never here.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from piip import home
from piip.data.files import exists
from piip.data.locating import locate
from piip.data.sources import DataError, Source
from piip.models import build_model
from piip.models.speed import set_speed
from piip.spec import ExperimentSpec
from piip.tracking.store import RunInfo, Store
from piip.tracking.writer import KEY
from piip.training import checkpoint
from piip.training.checkpoint import Checkpoint

Which = Literal["last", "best"]


@dataclass(frozen=True)
class Rebuilt:
    """What a run trained."""

    run: RunInfo
    spec: ExperimentSpec
    model: nn.Module
    """In evaluation mode, on the CPU."""
    checkpoint: Checkpoint
    """The one its weights come from; its manifest has the step and the classes."""

    @property
    def step(self) -> int:
        """Optimizer step of the weights."""
        return self.checkpoint.manifest.step


def rebuild(store: Store, run_id: str, which: Which = "last") -> Rebuilt:
    """The network of a run with its last or best weights. No pretrained weights are fetched.

    Args:
        store: Where the run is known.
        run_id: All of it, or its first characters.
        which: `last` walks past damaged checkpoints to the newest good one; `best` is of the best score so far.

    Raises:
        ValueError: No such run (the latest are listed), several that begin so, or its checkpoint is not on this machine.
        CheckpointError: The checkpoint is damaged, or of another model.
    """
    run = store.find_run(run_id)
    spec = store.load_spec(run.run_id)
    root = _checkpoints_of(run)
    found = checkpoint.best(root) if which == "best" else checkpoint.last(root)
    if found is None:
        raise ValueError(f"run {run_id} ({run.name}, {run.status}) has no {which} checkpoint in {root}")
    return Rebuilt(run, spec, network_of(spec, found), found)


def _checkpoints_of(run: RunInfo) -> Path:
    """Where a run's checkpoints are: where its tag says, else where this home would have them, which may have been moved.

    Raises:
        ValueError: It has none yet, or they are not on this machine.
    """
    place = run.tags.get("piip.checkpoint")
    if place is None:
        raise ValueError(
            f"run {run.run_id} ({run.name}, {run.status}) has no checkpoint yet: its tag piip.checkpoint is missing"
        )
    here = home.checkpoint_dir(run.tags.get(KEY, Path(place).name))
    found = [folder for folder in (Path(place), here) if os.path.isdir(folder)]
    if not found:
        raise ValueError(
            f"the checkpoints of run {run.run_id} are at {place}, which this machine does not have, and not at {here}. "
            "Mount it, or set PIIP_STORAGE to the folder they are in"
        )
    return found[0]


def network_of(spec: ExperimentSpec, found: Checkpoint) -> nn.Module:
    """The spec's network with a checkpoint's weights, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: The checkpoint is of another model.
    """
    model = build_model(spec.model, pretrained=False)
    set_speed(model, spec.speed.anywhere)
    checkpoint.load_model(model, found)
    return model.eval()


def source_of(rebuilt: Rebuilt, split: str, given: Mapping[str, Source]) -> Source:
    """Where a split's files are: as given, else where the run had them, else where this machine keeps the data set.

    Raises:
        DataError: Nowhere.
    """
    if split in given:
        return given[split]
    tags = rebuilt.run.tags
    annotations, images, names = (tags.get(f"data.{split}.{part}") for part in ("annotations", "images", "names"))
    if annotations and images and exists(Path(annotations)):
        more = (Path(path) for path in tags.get(f"data.{split}.more", "").splitlines())
        return Source(Path(annotations), Path(images), Path(names) if names else None, tuple(more))
    if annotations and rebuilt.spec.data.name not in rebuilt.spec.data.places:
        raise DataError(
            f"the run's {split} data is not where it was, {annotations}. "
            "Give it as your own: --split NAME --annotations .. --images .."
        )
    return locate(rebuilt.spec.data, split)
