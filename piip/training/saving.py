"""Checkpoints of our own, written: each is there whole or not at all, and the oldest make room. See checkpoint.py for what is in one."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from piip.durable import sync_directory, write_atomic
from piip.training.checkpoint import LEARNING, best_mark, folder_name, newest_first, sha256_of
from piip.training.manifest import Manifest, digest_of

_WRITING = ".writing_"


def save(
    root: Path,
    manifest: Manifest,
    *,
    model: dict[str, Tensor] | None,
    state: dict[str, Tensor],
    rank: int,
    barrier: Callable[[], object],
    learning: dict[str, Tensor] | None = None,
) -> None:
    """Write one checkpoint; every rank calls it, rank 0 commits. A crash at any point leaves the earlier checkpoints as they were.

    Args:
        root: The trial's checkpoint folder, seen by all ranks.
        manifest: Without `files`.
        model: Full weights; needed on rank 0 only.
        state: This rank's optimizer tensors.
        rank: Of the caller.
        barrier: Waits for all ranks.
        learning: The weights that training goes on with, where they are others; needed on rank 0 only.

    Raises:
        OSError: Disk full or not writable; the half-written folder is removed.
    """
    final = root / folder_name(manifest.step)
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
            if learning is not None:
                _write(temporary / LEARNING, learning)
        barrier()
        if rank == 0:
            _commit(temporary, final, manifest)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    barrier()


def _commit(temporary: Path, final: Path, manifest: Manifest) -> None:
    """Write the manifest and give the folder its name, after which it is a checkpoint."""
    files = {f.name: {"size": f.stat().st_size, "sha256": sha256_of(f)} for f in sorted(temporary.iterdir())}
    body = asdict(manifest) | {"files": files}
    write_atomic(temporary / "manifest.json", json.dumps(body | {"digest": digest_of(body)}, indent=1))
    shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step
    temporary.rename(final)
    sync_directory(final.parent)


def mark_best(root: Path, step: int, score: float) -> None:
    """Remember the checkpoint of `step` as the best one."""
    write_atomic(root / "best.json", json.dumps({"step": step, "score": score}))


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and the best one."""
    mark = best_mark(root)
    for folder in list(newest_first(root))[keep:]:
        if not mark or folder.name != folder_name(mark[0]):
            shutil.rmtree(folder)


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file({name: t.detach().contiguous().cpu() for name, t in tensors.items()}, path)
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise OSError(
            f"checkpoint file {path} could not be written: {error}. Earlier checkpoints are intact."
        ) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())
