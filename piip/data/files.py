"""Files below a folder, as all kinds of data that are folders see them, packed or not."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from piip.data import packed
from piip.data.sources import DataError
from piip.data.text import is_text


def files_below(folder: Path | str, *, within: Path | None = None) -> Iterator[str]:
    """Paths of the files in a folder and all below it, sorted folder by folder.

    What begins with a dot is passed over: systems and editors leave `._a.png`, `.ipynb_checkpoints` and their like beside what people
    put there. Links are followed, but never back to a folder that one is in.

    Args:
        folder: Where to begin.
        within: The folder that it is a part of, where there is one.
    """
    if packed.is_packed(folder) or not os.path.isdir(folder):
        yield from _in_pack(os.fspath(folder))
        return
    yield from _below(os.fspath(folder), tuple(os.path.realpath(place) for place in (folder, within or folder)))


def _below(folder: str, inside: tuple[str, ...]) -> Iterator[str]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not is_seen(entry.name):
            continue
        if not entry.is_dir():
            yield entry.path
        elif not _holds(place := os.path.realpath(entry.path), inside):
            yield from _below(entry.path, (*inside, place))


def _in_pack(folder: str) -> Iterator[str]:
    """The same of a packed folder, or of a folder in one."""
    found = packed.within(os.path.join(folder, "file"))
    if found is None:
        raise DataError(f"folder not found: {folder}")
    pack, inside = found
    above = inside.removesuffix("file")
    for name in sorted((name for name in pack.files if name.startswith(above)), key=lambda name: name.split("/")):
        yield os.path.join(folder, name.removeprefix(above))


def entries(folder: Path | str) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in a folder, packed or not; none where it is not there."""
    if packed.is_packed(folder) or not os.path.isdir(folder):
        return _packed_entries(folder) or ([], [])
    there = list(os.scandir(folder))
    return [e.name for e in there if e.is_dir()], [e.name for e in there if not e.is_dir()]


def _packed_entries(folder: Path | str) -> tuple[list[str], list[str]] | None:
    found = packed.within(os.path.join(folder, "file"))
    return found[0].folders.get(found[1].rpartition("/")[0]) if found else None


def is_there(path: Path) -> bool:
    """Whether there is such a file, packed or not."""
    return os.path.isfile(path) or packed.file_within(path) is not None


def is_folder(path: Path) -> bool:
    """Whether there is such a folder, packed or not."""
    return os.path.isdir(path) or _packed_entries(path) is not None  # of os.path: no name is too long for it


def exists(path: Path) -> bool:
    """Whether there is such a file or folder, packed or not."""
    return os.path.exists(path) or is_there(path) or is_folder(path)


def content(path: Path) -> bytes:
    """The bytes of a file, packed or not.

    Raises:
        OSError: It is not there.
    """
    inside = packed.content_of(path)
    return path.read_bytes() if inside is None else bytes(inside)


def stream(path: Path) -> BinaryIO:
    """A file opened to read its bytes, packed or not.

    Raises:
        OSError: It is not there.
    """
    inside = packed.content_of(path)
    return path.open("rb") if inside is None else io.BytesIO(inside)


def _holds(place: str, inside: tuple[str, ...]) -> bool:
    """Whether a folder is one of those that one is in, or has one of them in it."""
    return any(Path(one).is_relative_to(place) for one in inside)


def is_seen(name: str) -> bool:
    """Whether a file or folder is not one of those that are passed over."""
    return not name.startswith(".")


def require_text(folder: Path, paths: list[str]) -> None:
    """Names that can be written anywhere.

    Raises:
        DataError: Some cannot.
    """
    if odd := [path for path in paths if not is_text(path)]:
        raise DataError(f"{len(odd)} names in {folder} are no Unicode text, first {odd[0]!r}. Rename them")


def bytes_in(path: Path) -> int:
    """Size of a file, packed or not; -1 where there is none, which whoever reads it says."""
    if os.path.isfile(path):  # of os.path: no name is too long for it
        return path.stat().st_size
    pack, name = packed.within(path) or (None, "")
    return pack.files.get(name, (0, 0, -1))[2] if pack else -1


def version(path: Path) -> tuple[int, int]:
    """Bytes of a file and when it, or the packed folder that it is in, was written: what changes with its content.

    Raises:
        OSError: It is not there.
    """
    inside = packed.file_within(path)
    written = path if inside is None else inside[0].folder / packed.MANIFEST
    return bytes_in(path), written.stat().st_mtime_ns
