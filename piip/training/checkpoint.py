"""Checkpoints of our own: safetensors, a manifest with digests, an atomic commit, and a walk back to the last good one.

A checkpoint is a folder `step_00000120/` holding `model.safetensors`, one `state_rank<r>.safetensors` per rank (optimizer) and
`manifest.json`, written last. Nothing in it is a pickle. torch.load, safetensors and DeepSpeed all load a flipped byte without a
word, so every file's SHA-256 is in the manifest and is checked before a tensor is used.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from piip.record.durable import sync_directory, write_atomic
from piip.training.manifest import CheckpointError, Manifest, NewerCheckpointError, digest_of, read_manifest
from piip.training.upgrade import today

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Manifest",
    "best",
    "best_mark",
    "last",
    "load_model",
    "mark_best",
    "prune",
    "save",
    "verify",
]

log = logging.getLogger(__name__)

_WRITING = ".writing_"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    folder: Path
    manifest: Manifest

    def model(self) -> dict[str, Tensor]:
        """The model's state dict."""
        return self._read("model.safetensors")

    def state(self, rank: int) -> dict[str, Tensor]:
        """One rank's optimizer tensors."""
        return self._read(f"state_rank{rank}.safetensors")

    def _read(self, file: str) -> dict[str, Tensor]:
        """Under today's names."""
        # load_file maps the file; a copy outlives its deletion by another node of a shared file system
        tensors = load_file(self.folder / file)
        return {today(name, self.manifest.version): tensor.clone() for name, tensor in tensors.items()}


def save(
    root: Path,
    manifest: Manifest,
    *,
    model: dict[str, Tensor] | None,
    state: dict[str, Tensor],
    rank: int,
    barrier: Callable[[], object],
) -> None:
    """Write one checkpoint; every rank calls it, rank 0 commits. A crash at any point leaves the earlier checkpoints as they were.

    Args:
        root: The trial's checkpoint folder, seen by all ranks.
        manifest: Without `files`.
        model: Full weights; needed on rank 0 only.
        state: This rank's optimizer tensors.
        rank: Of the caller.
        barrier: Waits for all ranks.

    Raises:
        OSError: Disk full or not writable; the half-written folder is removed.
    """
    final = root / _name(manifest.step)
    temporary = root / f"{_WRITING}{final.name}"
    if rank == 0:
        for left in root.glob(f"{_WRITING}*"):  # by an attempt that was killed
            shutil.rmtree(left)
        temporary.mkdir(parents=True)
    barrier()
    try:
        _write(temporary / f"state_rank{rank}.safetensors", state)
        if rank == 0 and model is not None:
            _write(temporary / "model.safetensors", model)
        barrier()
        if rank == 0:
            _commit(temporary, final, manifest)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    barrier()


def _commit(temporary: Path, final: Path, manifest: Manifest) -> None:
    """Write the manifest and give the folder its name, after which it is a checkpoint."""
    files = {f.name: {"size": f.stat().st_size, "sha256": _sha256(f)} for f in sorted(temporary.iterdir())}
    body = asdict(manifest) | {"files": files}
    write_atomic(temporary / "manifest.json", json.dumps(body | {"digest": digest_of(body)}, indent=1))
    shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step
    temporary.rename(final)
    sync_directory(final.parent)


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
        if _sha256(path) != expected["sha256"]:
            raise CheckpointError(f"{path} is damaged: its SHA-256 is not the manifest's")
    return Checkpoint(folder, manifest)


def last(root: Path) -> Checkpoint | None:
    """The newest good checkpoint; damaged ones are named and walked past. None where there is none at all.

    Raises:
        CheckpointError: There are checkpoints, and none of them is good; or a later version wrote one.
    """
    problems = []
    for folder in _newest_first(root):
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
    return verify(root / _name(mark[0])) if mark else None


def mark_best(root: Path, step: int, score: float) -> None:
    """Remember the checkpoint of `step` as the best one."""
    write_atomic(root / "best.json", json.dumps({"step": step, "score": score}))


def best_mark(root: Path) -> tuple[int, float] | None:
    """The (step, score) `mark_best` was last given."""
    pointer = root / "best.json"
    if not pointer.is_file():
        return None
    mark = json.loads(pointer.read_text())
    return mark["step"], mark["score"]


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and the best one."""
    mark = best_mark(root)
    for folder in list(_newest_first(root))[keep:]:
        if not mark or folder.name != _name(mark[0]):
            shutil.rmtree(folder)


def load_model(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Load the weights, every tensor by name and shape.

    Raises:
        CheckpointError: The checkpoint is of another model (the first differences are named).
    """
    weights, own = checkpoint.model(), model.state_dict()
    missing, extra = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    reshaped = [k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape]
    if missing or extra or reshaped:
        raise CheckpointError(
            f"{checkpoint.folder} is not of this model: {len(missing)} missing {missing[:3]}, {len(extra)} unexpected {extra[:3]}, "
            f"{len(reshaped)} of another shape {reshaped[:3]}"
        )
    model.load_state_dict(weights)


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _newest_first(root: Path) -> Iterator[Path]:
    yield from sorted(root.glob("step_*"), reverse=True)


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file({name: t.detach().contiguous().cpu() for name, t in tensors.items()}, path)
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise OSError(
            f"checkpoint file {path} could not be written: {error}. Earlier checkpoints are intact."
        ) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
