"""The images of class folders: what is one, what is left out, what is refused."""

import logging
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.data import ImageNetInfo
from torchvision.datasets.folder import IMG_EXTENSIONS

from piip.console import one_line
from piip.data.files import entries, files_below, is_seen, require_text
from piip.data.sources import DataError

log = logging.getLogger(__name__)

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
"""Folders of these names alone are parts of a data set, whose classes are one folder down."""


@dataclass(frozen=True)
class Listing:
    """What a folder of class folders holds."""

    classes: list[str]
    """Names of the folders, sorted, as they are shown: on one line; label k is classes[k]."""
    files: list[tuple[int, str]]
    """(label, path below the folder). The first image of every class, then the second of every class, ..: the first few are of all."""


def listed(folder: Path) -> Listing:
    """The images of `folder`/<class>/ and below, by name; hidden files and folders are passed over, other files counted in a warning.

    Raises:
        DataError: There are no class folders, or one is without images.
    """
    classes = _class_folders(folder)
    if not classes:
        beside = sum(_is_image(name) for name in entries(folder)[1])
        raise DataError(
            f"no class folders in {folder} ({beside} images). Wanted: {folder}/<class>/*.jpg for each class"
        )
    names = sorted(classes)
    if {name.lower() for name in names} <= SPLITS:
        raise DataError(
            f"{folder} holds splits ({', '.join(names)}), not classes. Give one of them: {folder}/{names[0]}, with a folder a class in it"
        )
    if len(names) == 1:
        raise DataError(
            f"one class folder in {folder}, {names[0]!r}: nothing to tell apart. Wanted: {folder}/<class>/*.jpg for each class"
        )
    files: list[tuple[int, int, str]] = []
    others: list[str] = []
    empty: list[str] = []
    for label, name in enumerate(names):
        found, rest = _below(classes[name], folder)
        others += rest
        empty += [] if found else [name]
        files += [(rank, label, os.path.relpath(path, folder)) for rank, path in enumerate(found)]
    if empty:
        raise DataError(
            f"{len(empty)} of {len(names)} class folders in {folder} are without images, first {empty[0]!r}. "
            f"Images end in {', '.join(IMG_EXTENSIONS)}. Fill or remove them, in the other split too"
        )
    require_text(folder, [path for _, _, path in files])
    if others:
        log.warning("%s: %d files that are no images left out, first %s", folder, len(others), others[0])
    return Listing([one_line(name) for name in names], [(label, path) for _, label, path in sorted(files)])


def _class_folders(folder: Path) -> dict[str, str]:
    """Name -> path. Names are compared in Unicode's composed form, as they are shown: on one line."""
    classes: dict[str, str] = {}
    shown: dict[str, str] = {}
    for path in sorted(os.path.join(folder, name) for name in entries(folder)[0] if is_seen(name)):
        name = unicodedata.normalize("NFC", os.path.basename(path))
        line = one_line(name)
        if not line or line in shown:
            other = f"as {shown[line]!r}" if line else "by no letters"
            raise DataError(
                f"{folder}: the class folder {os.path.basename(path)!r} is called {other}. Rename it, or make the two one"
            )
        classes[name], shown[line] = path, os.path.basename(path)
    return classes


def _below(folder: str, split: Path) -> tuple[list[str], list[str]]:
    """Paths of the images in a class folder and all below it, sorted, and of what else is there."""
    images: list[str] = []
    others: list[str] = []
    for path in files_below(folder, within=split):
        (images if _is_image(path) else others).append(path)
    return sorted(images), others


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMG_EXTENSIONS)


def classes_of(folder: Path) -> list[dict[str, Any]]:
    """Class folders as formats know classes: {"id", "name"} in order of label, ids from 0."""
    return [{"id": label, "name": name} for label, name in enumerate(listed(folder).classes)]


def imagenet_classes() -> list[dict[str, Any]]:
    """ImageNet-1K's 1000 folders, in order, without its files."""
    return [{"id": label, "name": name} for label, name in enumerate(ImageNetInfo("imagenet-1k").label_names())]
