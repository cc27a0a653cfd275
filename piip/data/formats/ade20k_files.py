"""Label maps and the images they belong to: which files go together, what their numbers mean, how a map is read."""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from piip.console import one_line
from piip.contracts import IGNORE
from piip.data.files import files_below, is_there, require_text
from piip.data.formats.ade20k_classes import ADE20K
from piip.data.images import SizeMismatchError, opened, read_image
from piip.data.sources import DataError, Source
from piip.data.text import read_text
from piip.spec import Ade20kSpec

PHOTOGRAPHS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
MAPS = {".png", ".bmp", ".tif", ".tiff"}
"""Endings of label maps: formats that keep numbers as they are."""
NAMES_FILE = "classes.txt"
_UNKNOWN = IGNORE - 1


@dataclass(frozen=True)
class Pair:
    """An image and its label map, below their folders, under one name; one of the two may be missing."""

    name: str
    image: Path | None
    map: Path | None


def pairs_of(source: Source) -> list[Pair]:
    """All images and label maps that have a name in common, or have none; in order of name, which is the path without its suffix.

    Raises:
        DataError: Two files of a folder share a name, or there are no label maps.
    """
    images, maps = _by_name(source.images, PHOTOGRAPHS), _by_name(source.annotations, MAPS)
    if not maps:
        photographs = len(_by_name(source.annotations, PHOTOGRAPHS))
        there = f" but {photographs} images: are the two folders swapped?" if photographs else ""
        raise DataError(
            f"{source.annotations}: no label maps{there or ', nor images'}. A map ends in {', '.join(sorted(MAPS))} (JPEG would blur its "
            "numbers) and is named as its image"
        )
    return [Pair(name, images.get(name), maps.get(name)) for name in sorted(images | maps)]


def _by_name(folder: Path, suffixes: set[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    paths = [path for path in files_below(folder) if os.path.splitext(path)[1].lower() in suffixes]
    require_text(folder, paths)
    for path in map(Path, paths):
        name = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
        if name in found:
            raise DataError(f"{folder}: {found[name].name} and {path.name} are one name; which of them is meant?")
        found[name] = path
    return found


def classes_of(source: Source | None, spec: Ade20kSpec) -> list[dict[str, Any]]:
    """{"id": number in the maps, "name"} in order of number, without those that are ignored.

    ADE20K's own are known. Others come from the source's file of names, else from `classes.txt` there or up to two folders above: a
    line a class, the first one of number 0; or, as in ADE20K's list, columns with the number first and the name last, between tabs.

    Raises:
        DataError: No such file, or not in that form.
    """
    if spec.name == "ade20k":
        return ADE20K
    assert source is not None
    beside = [folder / NAMES_FILE for folder in (source.annotations, *source.annotations.resolve().parents[:2])]
    file = source.names or next((path for path in beside if is_there(path)), None)
    if file is None:
        raise DataError(
            f"which classes do the label maps in {source.annotations} have? Write their names, a line each, the first one of "
            f"number 0, into {beside[0]}, or give such a file: --names FILE"
        )
    names, ignored = _names(file), {spec.ignore_value, *([0] if spec.reduce_zero_label else [])}
    classes = [{"id": number, "name": name} for number, name in sorted(names.items()) if number not in ignored]
    if len(classes) == 1:
        raise DataError(
            f"{file}: one class, {classes[0]['name']!r}, besides the numbers {sorted(ignored)}, which are ignored: nothing to tell apart. "
            "If 0 is a class, say so: --set data.reduce_zero_label=false (of the check: --no-reduce-zero-label)"
        )
    if not classes or classes[-1]["id"] >= _UNKNOWN:
        raise DataError(f"{file}: {len(classes)} classes, numbers up to {max(names, default=0)}; 1 to {_UNKNOWN} fit")
    return classes


def _names(file: Path) -> dict[int, str]:
    # lines end where editors end them, not at every character that Unicode calls the end of a line
    lines = re.split(r"\r\n|\n|\r", read_text(file).rstrip())
    columns = [line.split("\t") for line in lines if line.strip()]
    if not all(len(row) > 1 for row in columns):
        if empty := [number for number, line in enumerate(lines, 1) if not one_line(line)]:
            raise DataError(f"{file}: line {empty[0]} is empty; a name a line is wanted, the first one of number 0")
        return dict(enumerate(map(one_line, lines)))
    rows = [row for row in columns if row[0].strip().isdecimal()]  # without the heading
    names = {int(row[0]): one_line(row[-1].split(",")[0]) for row in rows}
    if len(names) < len(rows) or len(columns) - len(rows) > 1:
        raise DataError(f"{file}: columns, but not one number a line, each number once")
    return names


def nothing_to_learn(source: Source, maps: int) -> str:
    """What is said of a split whose maps have no class."""
    return f"{source.annotations}: nothing to learn or to score: all pixels of {maps} label maps are ignored"


def lookup(classes: Sequence[dict[str, Any]], spec: Ade20kSpec) -> NDArray[np.uint16]:
    """(65536,) number in a map -> label from 0; IGNORE, or a mark for numbers that nothing explains."""
    table = np.full(2**16, _UNKNOWN, dtype=np.uint16)
    table[[c["id"] for c in classes]] = np.arange(len(classes))
    if spec.reduce_zero_label:
        table[0] = IGNORE
    table[spec.ignore_value] = IGNORE
    return table


def read_map(path: Path) -> NDArray[Any]:
    """(H, W) of the numbers in a label map, a palette's as they are stored.

    Raises:
        DataError: Missing, cannot be decoded, or of more than one channel.
    """
    with opened(path, "label map") as stored:
        if len(stored.getbands()) > 1 or stored.mode == "F":
            raise DataError(f"{path}: {stored.mode} pixels; a label map has one whole number a pixel")
        numbers = np.array(stored)
    return numbers.astype(np.uint8) if numbers.dtype == bool else numbers


def labelled(numbers: NDArray[Any], table: NDArray[np.uint16], path: Path) -> NDArray[np.uint16]:
    """A map's numbers as labels from 0, IGNORE where there is none.

    Raises:
        DataError: A number that is neither a class nor ignored.
    """
    if strange := unexplained(numbers, table):
        listed = ", ".join(no_class(number, pixels) for number, pixels in list(strange.items())[:3])
        known = np.flatnonzero(table < _UNKNOWN)
        raise DataError(f"{path}: {listed}; classes are {known[0]} to {known[-1]}")
    return table[numbers]


def no_class(number: int, pixels: int) -> str:
    """What is said of a number that nothing explains."""
    return f"{number} ({pixels} pixels) is no class"


def read_photograph(image: Path, map_: Path, size: tuple[int, int]) -> Tensor:
    """The image (3, H, W) uint8 of a label map of `size` (height, width).

    Raises:
        DataError: As `read_image`; a size that is not the map's names both files.
    """
    try:
        return read_image(image, size)
    except SizeMismatchError as error:
        raise SizeMismatchError(str(error).replace("its annotations say", f"{map_} is")) from None


def unexplained(numbers: NDArray[Any], table: NDArray[np.uint16]) -> dict[int, int]:
    """Numbers of a map that are neither a class nor ignored -> pixels."""
    known = (numbers >= 0) & (numbers < len(table))
    strange = numbers[~known | (table[np.where(known, numbers, 0)] == _UNKNOWN)]
    found, pixels = np.unique(strange, return_counts=True)
    return dict(zip(found.tolist(), pixels.tolist(), strict=True))


def size_of(path: Path) -> tuple[int, int]:
    """(height, width) of an image by its header; (0, 0) of one that cannot be read, which whoever reads it says."""
    try:
        with opened(path) as stored:
            return stored.height, stored.width
    except DataError:
        return 0, 0


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first names, and how many more."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
