"""Checkpoints of our own, read: safetensors, a manifest with digests, and a walk back to the last good one. See saving.py.

A checkpoint is a folder `step_00000120/` holding `model.safetensors` (of a training with `ema`: the running mean, and the weights
themselves in `learning.safetensors`), one `state_rank<r>.safetensors` per rank (optimizer) and
`manifest.json`, written last. Nothing in it is a pickle. torch.load, safetensors and DeepSpeed all load a flipped byte without a
word, so every file's SHA-256 is in the manifest and is checked before a tensor is used.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from piip.training.manifest import CheckpointError, Manifest, NewerCheckpointError, read_manifest
from piip.training.upgrade import today

LEARNING = "learning.safetensors"
"""Where the model is a running mean: the weights themselves."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    folder: Path
    manifest: Manifest

    def model(self) -> dict[str, Tensor]:
        """The model's state dict."""
        return self._read("model.safetensors")

    def learning(self) -> dict[str, Tensor]:
        """The state dict that training goes on with: the model's, unless that is a running mean of it."""
        return self._read(LEARNING) if LEARNING in self.manifest.files else self.model()

    def state(self, rank: int) -> dict[str, Tensor]:
        """One rank's optimizer tensors."""
        return self._read(f"state_rank{rank}.safetensors")

    def _read(self, file: str) -> dict[str, Tensor]:
        """Under today's names."""
        # load_file maps the file; a copy outlives its deletion by another node of a shared file system
        tensors = load_file(self.folder / file)
        return {today(name, self.manifest.version): tensor.clone() for name, tensor in tensors.items()}


def verify(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, once every byte is what the manifest says.

    Raises:
        CheckpointError: Naming the file and what is wrong with it.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        if path.stat().st_size != expected["size"]:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes, its manifest says {expected['size']}")
        if sha256_of(path) != expected["sha256"]:
            raise CheckpointError(f"{path} is damaged: its SHA-256 is not the manifest's")
    return Checkpoint(folder, manifest)


def last(root: Path) -> Checkpoint | None:
    """The newest good checkpoint; damaged ones are named and walked past. None where there is none at all.

    Raises:
        CheckpointError: There are checkpoints, and none of them is good; or a later version wrote one.
    """
    problems = []
    for folder in newest_first(root):
        try:
            found = verify(folder)
        except NewerCheckpointError:
            raise
        except CheckpointError as error:
            problems.append(str(error))
            log.warning("%s. Falling back to the checkpoint before it.", error)
            continue
        if problems:
            log.warning("using %s", found.folder)
        return found
    if problems:
        raise CheckpointError(f"no good checkpoint left in {root}: {'; '.join(problems)}. Start anew with --fresh.")
    return None


def best(root: Path) -> Checkpoint | None:
    """The checkpoint with the best validation score so far, or None before the first evaluation.

    Raises:
        CheckpointError: It is damaged. (There is no better one to fall back to: ask for the last.)
    """
    mark = best_mark(root)
    return verify(root / folder_name(mark[0])) if mark else None


def best_mark(root: Path) -> tuple[int, float] | None:
    """The (step, score) `mark_best` was last given."""
    pointer = root / "best.json"
    if not pointer.is_file():
        return None
    mark = json.loads(pointer.read_text())
    return mark["step"], mark["score"]


def load_model(model: torch.nn.Module, checkpoint: Checkpoint, *, learning: bool = False) -> None:
    """Load the weights, or those that training goes on with, every tensor by name and shape.

    Raises:
        CheckpointError: The checkpoint is of another model (the first differences are named).
    """
    weights, own = checkpoint.learning() if learning else checkpoint.model(), model.state_dict()
    missing, extra = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    reshaped = [k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape]
    if missing or extra or reshaped:
        raise CheckpointError(
            f"{checkpoint.folder} is not of this model: {len(missing)} missing {missing[:3]}, {len(extra)} unexpected {extra[:3]}, "
            f"{len(reshaped)} of another shape {reshaped[:3]}"
        )
    model.load_state_dict(weights)


def folder_name(step: int) -> str:
    """Name of the folder that holds the checkpoint of a step."""
    return f"step_{step:08d}"


def newest_first(root: Path) -> Iterator[Path]:
    """The folders of checkpoints, whole or damaged."""
    yield from sorted(root.glob("step_*"), reverse=True)


def sha256_of(path: Path) -> str:
    """Digest of a file's bytes, as manifests have it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
