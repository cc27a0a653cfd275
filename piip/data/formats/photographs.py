"""The images of a folder, for formats that do not list them by path: which are read, how an image without its ending is called."""

from collections.abc import Iterable
from pathlib import Path, PurePath

from piip.console import several
from piip.data.files import files_below, require_text
from piip.data.formats.reading import Reading
from piip.data.images import find_images
from piip.data.problems import Problem

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""Of images that are read, in small letters or capitals; the first one is what the data sets themselves have."""
UNREAD = {
    ".gif", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jpx", ".jpeg2", ".jpeg2000", ".jfif", ".jxl", ".ppm", ".pgm", ".tga", ".ico",
    ".svg", ".psd", ".exr", ".hdr", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw",
}  # fmt: skip
"""Of images, too, which are told: who put them there means them."""
MOST = 3


def is_photograph(path: str) -> bool:
    """Whether a file's name ends as that of an image that is read."""
    return PurePath(path).suffix.lower() in ENDINGS


def images_below(reading: Reading, folder: Path) -> list[str]:
    """Paths of the images in a folder and all below it, in order; tells those that are there and not read.

    Raises:
        DataError: Names that are no text.
    """
    there = list(files_below(folder))
    paths = [path for path in there if is_photograph(path)]
    require_text(folder, paths)
    if unread := [path for path in there if PurePath(path).suffix.lower() in UNREAD]:
        said = f"{_first(folder, unread)}. Images end in {', '.join(ENDINGS)}: convert them"
        reading.problems.append(Problem("images not read", said, fatal=False))
    return paths


def note_unused(reading: Reading, paths: Iterable[str], used: Iterable[str]) -> None:
    """Tells the images of the source's folder that nothing says anything of.

    Args:
        reading: What they are not in.
        paths: As `images_below` gives them.
        used: Paths below the folder.
    """
    folder, known = reading.source.images, set(used)
    if unused := [path for path in paths if PurePath(path).relative_to(folder).as_posix() not in known]:
        said = f"{_first(folder, unused)}. No annotations: not used"
        reading.problems.append(Problem("images without annotations", said, fatal=False))


def named(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Name of an image without its ending -> path below the folder: .jpg, or another ending where that is there."""
    found = {name: f"{name}{ENDINGS[0]}" for name in names}
    missing = _missing(folder, found)
    for ending in (*ENDINGS[1:], *map(str.upper, ENDINGS)):
        if not missing:
            break
        tried = {name: f"{name}{ending}" for name in missing}
        missing = _missing(folder, tried)
        found |= {name: path for name, path in tried.items() if name not in missing}
    return found


def _missing(folder: Path, paths: dict[str, str]) -> set[str]:
    return {name for name, path in zip(paths, find_images(folder, paths.values()), strict=True) if path is None}


def _first(folder: Path, paths: list[str]) -> str:
    names = ", ".join(PurePath(path).relative_to(folder).as_posix() for path in paths[:MOST])
    more = f" and {len(paths) - MOST} more" if len(paths) > MOST else ""
    return f"{folder}: {several(len(paths), 'image')} of the folder, {names}{more}"
