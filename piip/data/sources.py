"""Where the files of a split are on this machine. The spec says what the data are, this says where; `locating` finds them."""

from dataclasses import dataclass
from pathlib import Path


class DataError(ValueError):
    """Data that cannot be used; one line that names the file and, where there is one, the offending id."""


@dataclass(frozen=True)
class Source:
    """The files of a split."""

    annotations: Path
    """The file or the folder that the kind of data `holds` its annotations in; the folder of class folders."""
    images: Path
    """The folder that names of images are relative to."""
    names: Path | None = None
    """The file that names the classes, a line each, where annotations do not."""
    more: tuple[Path, ...] = ()
    """Further files or folders that hold annotations of the same split, where it has several."""
