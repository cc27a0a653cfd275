"""What a checkpoint says of itself: `manifest.json`, of this version or an earlier one."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from piip.training.upgrade import VERSION


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with the reason."""


class NewerCheckpointError(CheckpointError):
    """A later version wrote it. It is whole, so that none before it may take its place."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is, and what its files must be."""

    step: int
    trial_key: str
    world_size: int
    engine: str
    """`deepspeed-zero<stage>` or `ddp`: ZeRO 1-3 optimizer shards only fit the same stage and world size."""
    categories: list[dict[str, Any]]
    """The classes behind labels 1, 2, ...: {"id": category id of the annotations, "name": ...}."""
    spent: dict[str, float] = field(default_factory=dict)
    """What the steps up to here took (`time/...`, seconds; `cost/peak_memory_gb`); a resumed trial counts on from it."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    version: int = VERSION
    """Version of the form it was written in (see upgrade.py)."""


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a checkpoint's folder.

    Raises:
        CheckpointError: It is missing, damaged, or of a version that this one does not know.
    """
    path = folder / "manifest.json"
    try:
        body = json.loads(path.read_text())
        if body.pop("digest") != digest_of(body):
            raise ValueError("its digest is not that of its content")
        version = body.setdefault("version", 1)
        if version > VERSION:
            raise NewerCheckpointError(
                f"{folder} is of version {version}, this piip reads up to {VERSION}. Take the piip that wrote it or a later one."
            )
        return Manifest(**body)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no manifest.json: it was never finished") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None


def digest_of(body: dict[str, Any]) -> str:
    """SHA-256 of a manifest's content."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
