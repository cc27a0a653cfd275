"""Fine-tuning: a whole network from weights that are there already, optimizer and step from nothing.

Deciding where weights come from; the order matters: 1. this trial's own checkpoint (run.py: weights, optimizer, step); 2.
`model.weights`, here; 3. each branch's pretraining (piip/models).
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from torch import nn

from piip.spec import ModelSpec
from piip.training import checkpoint
from piip.weights.fit import Report
from piip.weights.names.mmdet import fit_weights, without_classes
from piip.weights.read import Weights, WeightsError
from piip.weights.sources import find, read_weights

log = logging.getLogger(__name__)


def read_any(given: str | Path, sha256: str | None = None) -> Weights:
    """`read_weights`, and our own checkpoints too: one step's folder, or a trial's (its last good one).

    Raises:
        WeightsError: They cannot be had, or are refused.
        CheckpointError: Our own checkpoint is damaged.
    """
    path = Path(given).expanduser()
    if (path / "manifest.json").is_file():
        found = checkpoint.verify(path)
    elif path.is_dir() and any(path.glob("step_*")):
        last = checkpoint.last(path)
        assert last is not None
        found = last
    else:
        return read_weights(given, sha256)
    classes = tuple(category["name"] for category in found.manifest.categories)
    return Weights(found.model(), f"{found.folder.name} of {found.manifest.trial_key}", classes=classes)


def start_from(model: nn.Module, spec: ModelSpec, classes: Sequence[str]) -> Report | None:
    """Load `spec.weights` into `model`; None where the spec names none.

    Args:
        model: Built, not yet wrapped by an engine.
        spec: Its `weights_partial` lets tensors be missing or of another shape (the head, with other classes).
        classes: The data's, in order of label.

    Raises:
        WeightsError: The weights cannot be had, or do not fit.
    """
    if spec.weights is None:
        return None
    weights = read_any(spec.weights)
    if spec.weights_partial and weights.classes and set(weights.classes) != set(classes):
        weights = without_classes(weights)  # their rows are about other things, even where there are as many
    fitted, report = fit_weights(weights, model, spec, classes)
    report.require(("resized", "missing", "unexplained") if spec.weights_partial else ("resized",))
    model.load_state_dict(fitted, strict=False)
    log.warning("starting from %s", report.summary)
    for line in report.lines()[1:20]:
        log.info(line)
    return report


def files_of(spec: ModelSpec) -> dict[str, str]:
    """The weights a new training of this network reads: field of the spec -> file, folder or public name."""
    if spec.weights:
        return {"weights": spec.weights}  # the branches' would be overwritten
    parts = {"backbone": spec.backbone.files, "head": spec.head.files}
    return {f"{part}.{field}": file for part, files in parts.items() for field, file in files.items()}


def digest_of(given: str) -> str:
    """Twelve digits that tell one file or folder of weights from another: a trial started from other weights is another trial.

    By content, of all files of a folder; of checkpoints of ours by their manifests, which hold the digests of their files.

    Raises:
        WeightsError: There is no such file.
    """
    path = find(given)
    files = [path] if path.is_file() else sorted(path.rglob("manifest.json")) or sorted(path.rglob("*"))
    contents = {
        str(f.relative_to(path)): _digest(f, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()
    }
    if not contents:
        raise WeightsError(f"no weights in {path}: the folder is empty")
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:12]


@lru_cache(maxsize=4096)
def _digest(file: Path, size: int, changed_ns: int) -> str:
    """Read once, however many rows start from it; size and time of change are in the key, so that another file is another entry."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
