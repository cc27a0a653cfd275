"""Files below a folder, as all kinds of data that are folders see them."""

import os
from collections.abc import Iterator
from pathlib import Path

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
    yield from _below(os.fspath(folder), tuple(os.path.realpath(place) for place in (folder, within or folder)))


def _below(folder: str, inside: tuple[str, ...]) -> Iterator[str]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not is_seen(entry.name):
            continue
        if not entry.is_dir():
            yield entry.path
        elif not _holds(place := os.path.realpath(entry.path), inside):
            yield from _below(entry.path, (*inside, place))


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
    """Size of a file; -1 where there is none, which whoever reads it says."""
    return path.stat().st_size if os.path.isfile(path) else -1
