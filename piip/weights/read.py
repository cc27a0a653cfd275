"""Tensors out of a file that others wrote: checked for damage first, and no code of a pickle is ever run.

torch.load reads a file with a flipped byte without a word; a zip archive (what torch has written since 2020) holds a CRC of every
record, and public files often carry the first digits of their SHA-256 in their name. Both are compared before a tensor is used.
"""

import hashlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from piip.weights.pickled import PickleError, load_pickle

WRAPPERS = ("state_dict", "model", "module", "blobs")
"""Under which key mmdet and mmseg, classification and pretraining, DeepSpeed and Detectron keep the tensors."""
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80\x02"
_PIECE = 1 << 24


class WeightsError(ValueError):
    """Weights that cannot be had or must not be used; one line with the reason."""


class _Inert:
    """Stands in for a class that a pickle names: keeps what it is given and does nothing."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Self:
        self = super().__new__(cls)
        self.args = args
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


HARMLESS = (
    # what ZeRO puts beside its tensors
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
    # the command line beside classification and pretraining weights
    "argparse.Namespace",
    "pathlib.PosixPath",
    # numbers of a log in mmdet's `meta`
    "_codecs.encode",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
)
"""Names a checkpoint's pickle may use besides tensors. None of them is imported: an inert stand-in takes its place."""


@dataclass(frozen=True)
class Weights:
    """Named tensors and where they come from."""

    tensors: dict[str, Tensor]
    origin: str
    """What was read, in words for people."""
    sha256: str | None = None
    """Digest of the file; None for a folder."""
    classes: tuple[str, ...] = ()
    """Names of the classes in order of label, where the file says so (mmdet's `meta`)."""
    notes: list[str] = field(default_factory=list)
    """What the reader should know, e.g. that the format has no checksum."""


def read_file(path: Path, sha256: str | None = None) -> Weights:
    """The tensors of one `.pth`, `.pt`, `.safetensors`, `.npz` or `.pkl` file, out of whatever wrapper they are in.

    Args:
        path: The file.
        sha256: Its digest, or the first digits of it, where the caller knows it; otherwise the name's (`...-a1311bcf.pth`).

    Raises:
        WeightsError: Missing, damaged, not weights, or a pickle that asks for more than tensors.
    """
    digest = check_digest(path, sha256)
    document, notes = load_document(path)
    tensors = unwrap(document, path)
    return Weights(
        tensors, f"{path.name}, {len(tensors)} tensors", digest, _classes(document), [*notes, *_others(document)]
    )


def check_digest(path: Path, expected: str | None = None) -> str:
    """The file's SHA-256, once it begins with what is expected.

    Raises:
        WeightsError: It does not, or there is no such file.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    named = _HASH_IN_NAME.search(path.name)
    expected = expected or (named[1] if named else None)
    if expected and not digest.startswith(expected.lower()):
        raise WeightsError(
            f"{path} is damaged: its SHA-256 begins with {digest[: len(expected)]}, not {expected}. Get it again"
        )
    return digest


def load_document(path: Path) -> tuple[Any, list[str]]:
    """What a file holds, and notes on how far it could be checked.

    Raises:
        WeightsError: As `read_file`.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a Git LFS pointer, not the weights: run git lfs pull")
    if start.lstrip()[:9].lower() in (b"<!doctype", b"<html>") or start.lstrip().startswith(b"<html"):
        raise WeightsError(f"{path} is a web page, not weights: the download was answered with one")
    if path.suffix == ".safetensors":
        return _safetensors(path), ["safetensors holds no checksum; give --sha256 to be sure of every byte"]
    if path.suffix == ".pkl" and not start.startswith(_ZIP):
        return _arrays_of_pickle(path), ["a pickle holds no checksum; give --sha256 to be sure of every byte"]
    if start.startswith(_ZIP):
        names = _check_zip(path)
        if all(name.endswith(".npy") for name in names):
            return _arrays(path), []
        return _unpickle(path, mmap=True), []
    if start.startswith(_PICKLE):
        return _unpickle(path, mmap=False), [
            "a format of before 2020 without checksums; give --sha256 to be sure of every byte"
        ]
    raise WeightsError(f"{path} is no PyTorch, safetensors or NumPy file: it begins with {start[:8]!r}")


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged or cut short ({path.stat().st_size} bytes): {error}") from None


def _arrays(path: Path) -> dict[str, Tensor]:
    """A NumPy archive's; arrays of Python objects would be a pickle, and are refused."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive}
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"{path} refused: one of its arrays does not hold plain numbers ({error}). Nothing of it was run"
        ) from None


def _arrays_of_pickle(path: Path) -> Any:
    """Of Detectron's `.pkl`."""
    try:
        return load_pickle(path)
    except PickleError as error:
        raise WeightsError(f"{path} refused: {error}. Nothing of it was run") from None
    # a pickle cut off or changed anywhere can fail in any way
    except Exception as error:
        first = str(error).partition("\n")[0][:200]
        raise WeightsError(
            f"{path} is no pickle of arrays, or damaged or cut short: {type(error).__name__}: {first}"
        ) from None


def _check_zip(path: Path) -> list[str]:
    """The names of its records, every one of which fits its CRC."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name or name.endswith("/constants.pkl") for name in archive.namelist()):
                raise WeightsError(f"{path} is a TorchScript program, not weights. Save its state_dict")
            for record in archive.infolist():
                with archive.open(record) as stream:
                    while stream.read(_PIECE):
                        pass
            return archive.namelist()
    except zipfile.BadZipFile as error:
        truncated = "not a zip file" in str(error)
        what = f"cut short at {size} bytes: the archive's end is missing" if truncated else f"damaged: {error}"
        raise WeightsError(f"{path} is {what}. Get it again") from None
    except (EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise WeightsError(f"{path} is damaged: {error}. Get it again") from None


def _unpickle(path: Path, *, mmap: bool) -> Any:
    stand_ins: list[Any] = [(_Inert, name) for name in HARMLESS]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except UnpicklingError as error:
        raise WeightsError(f"{path} refused: {_reason(str(error))}. Nothing of it was run") from None
    # a pickle cut off or changed anywhere can fail in any way
    except Exception as error:
        first = str(error).partition("\n")[0][:200]
        raise WeightsError(f"{path} is damaged or cut short: {type(error).__name__}: {first}. Get it again") from None


def _reason(message: str) -> str:
    """PyTorch's page of advice in a few words."""
    if found := re.search(r"GLOBAL ([\w.]+)", message):
        return f"its pickle asks for {found[1]}, which is neither a tensor nor a name known to be harmless"
    inner = message.rpartition("WeightsUnpickler error: ")[2]
    return "its pickle is not one of tensors: " + inner.strip().partition("\n")[0][:200]


def unwrap(document: Any, path: Path) -> dict[str, Tensor]:
    """The tensors by name, out of their wrappers and without DataParallel's `module.` in front.

    Raises:
        WeightsError: There are none.
    """
    for _ in WRAPPERS:
        if (key := _taken(document)) is None:
            break
        document = document[key]
    tensors = {k: v for k, v in document.items() if isinstance(v, Tensor)} if isinstance(document, Mapping) else {}
    if not tensors:
        found = f"{type(document).__name__} {list(document)[:5] if isinstance(document, Mapping) else ''}".strip()
        raise WeightsError(f"{path} holds no named tensors, nor do {', '.join(WRAPPERS)} in it; it is a {found}")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def _others(document: Any) -> list[str]:
    """Notes on weights beside those that are taken, e.g. their average over training (`state_dict_ema`)."""
    taken = _taken(document)
    if taken is None:
        return []
    beside = {
        key: sum(isinstance(value, Tensor) for value in held.values())
        for key, held in document.items()
        if key != taken and isinstance(held, Mapping)
    }
    return [
        f"{count} tensors under {key!r} are passed over: weights are taken from {taken!r}"
        for key, count in beside.items()
        if count
    ]


def _taken(document: Any) -> str | None:
    """The wrapper that tensors are taken out of; None where there is none."""
    return next((k for k in WRAPPERS if isinstance(document, Mapping) and isinstance(document.get(k), Mapping)), None)


def _classes(document: Any) -> tuple[str, ...]:
    meta = document.get("meta") if isinstance(document, Mapping) else None
    classes = meta.get("CLASSES") if isinstance(meta, Mapping) else None
    named = isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes)
    # mmsegmentation's ADE20K has a 'bed ' among them
    return tuple(name.strip() for name in classes) if named and classes else ()
