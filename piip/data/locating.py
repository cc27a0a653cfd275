"""Finds a data set's files on this machine."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from piip.data.files import exists, is_folder, is_there
from piip.data.likeness import looks_like
from piip.data.sources import DataError, Source
from piip.home import data_root, home
from piip.options import UsageError
from piip.spec import Data
from piip.spec.data import kinds_of_folders, words_for
from piip.spec.places import Places

MADE = {"demo": "", "aerial": " --kind aerial"}
"""Data sets that are made here, under `home()`, and what the command says to make them."""


def locate(data: Data, split: str, custom: Mapping[str, Source] | None = None) -> Source:
    """The files of a split.

    Args:
        data: Its `name` is one of its kind's `places` (under `data_root()`; of `MADE` under `home()`), or what the user calls their own.
        split: `train`, `val`, or a key of `custom`.
        custom: The user's own files by split; used by names without a place alone.

    Raises:
        DataError: The name or split is unknown, or a file is not there.
    """
    if data.name in data.places:
        source, advice = _placed(data, split)
    elif custom and split in custom:
        source, advice = custom[split], "Give paths that are there."
    else:
        given = ", ".join(sorted(custom)) if custom else "none"
        raise DataError(
            f"no data set {data.name!r} for {words_for(data)}. There is: {', '.join(data.places)}; any other name is of data of your "
            f"own, which need annotations and an image folder for {split!r}; given: {given}."
        )
    for path in (source.annotations, *source.more, source.images):
        if not exists(path):
            raise DataError(f"{data.name} data not found: {path}. {advice}")
    return source


def check_form(path: Path, data: Data, *, what: Literal["annotations", "images"], said: str = "") -> None:
    """Refuse a file where a folder is wanted, and the other way round; what is not there at all is somebody else's to say.

    Args:
        path: Of a user's own data.
        data: What they are.
        what: Which of a split's two paths.
        said: The flag it was given by.

    Raises:
        UsageError: Says which it is, what is wanted and what that holds.
    """
    place = next(iter(data.places.values()))
    file = what == "annotations" and place.one_file
    folder = is_folder(path)
    fits = not place.refuses(folder=folder) if what == "annotations" else folder
    if fits or not exists(path):
        return
    given, wanted = ("folder", "file") if file else ("file", "folder")
    holds = f" with {data.holds}" if what == "annotations" or not place.apart else " of images"
    others = f" (folders are for --kind {', '.join(kinds_of_folders())})" if file and not said else ""
    others = looks_like(path, data.kind) or others
    raise UsageError(
        f"{f'{said} ' if said else ''}{path} is a {given}; {words_for(data)} wants a {wanted}{holds}{others}"
    )


def source_at(place: Places, root: Path, split: str, *, without: int = 0) -> Source:
    """Where a split's files of a data set would be.

    Args:
        place: The data set's.
        root: What `place` is below.
        split: `train`, `val` or `test`.
        without: So many of the first folders of `place` are not there: `root` is in their place.
    """
    said = {"split": split, "part": {"train": "training", "val": "validation"}.get(split, split)}
    said["voc"] = {"train": "trainval", "val": "test"}.get(split, split)

    def at(pattern: str) -> Path:
        return root.joinpath(*PurePosixPath(pattern.format(**said)).parts[without:])

    # a names file is a help, not a need: ADE20K's own download has one, its copies often do not
    names = at(place.names) if place.names else None
    more = tuple(at(pattern) for whose, pattern in place.more if whose == split)
    return Source(at(place.annotations), at(place.images), names if names and is_there(names) else None, more)


def _placed(data: Data, split: str) -> tuple[Source, str]:
    """The files of a data set that has its place, and what to do where they are not there."""
    made, place = MADE.get(data.name), data.places[data.name]
    root = data_root() if made is None else home() / "data"
    put = f"Set PIIP_DATA to the folder that holds {PurePosixPath(place.annotations).parts[0]}/."
    advice = put if made is None else f"Make it: python -m piip.data.demo {root / data.name}{made}"
    return source_at(place, root, split), advice
