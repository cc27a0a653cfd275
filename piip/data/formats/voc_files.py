"""Where PASCAL VOC's files are: the XML files of a folder or of lists, and the folder of images that belongs to one."""

from collections.abc import Iterator
from pathlib import Path

from piip.data.files import files_below, is_folder, is_there, require_text
from piip.data.sources import DataError, Source
from piip.data.text import read_text


def files_of(source: Source) -> Iterator[Path]:
    """The XML files of a split."""
    if is_folder(source.annotations):
        found = [path for path in files_below(source.annotations) if path.lower().endswith(".xml")]
        require_text(source.annotations, found)
        if not found:
            raise DataError(f"{source.annotations}: no XML files")
        yield from map(Path, found)
        return
    for file in (source.annotations, *source.more):
        folder = folder_of_list(file)
        lines = [line.strip() for line in read_text(file, "list of images").splitlines() if line.strip()]
        names = [name for name in (_listed(line, folder) for line in lines) if name]
        if not names:
            raise DataError(f"{file}: names no image; an id in every line is wanted, of a file in {folder}")
        for name in dict.fromkeys(names):
            yield folder / f"{name.removesuffix('.xml')}.xml"


def _listed(line: str, folder: Path) -> str | None:
    """The name in a line of a list, which may have spaces; None where the class of the list is not in the image."""
    flag = line.split()[-1]
    if flag == line or flag not in ("1", "0", "-1") or is_there(folder / f"{line}.xml"):
        return line
    return None if flag == "-1" else line.removesuffix(flag).strip()


def folder_of_list(path: Path) -> Path:
    """The folder Annotations that belongs to a list: beside ImageSets, or beside the list."""
    for folder in path.absolute().parents[:3]:
        if is_folder(folder / "Annotations"):
            return folder / "Annotations"
    raise DataError(f"{path}: there is no folder Annotations beside it or up to two folders above")


def root_of(file: Path, source: Source) -> Path:
    """The folder of XML files that a file is in, or is below."""
    if is_folder(source.annotations):
        return source.annotations
    return next((folder for folder in file.parents if folder.name == "Annotations"), file.parent)


def beside(file: Path, source: Source) -> str:
    """The folder of images that lies beside that of an XML file, from `source.images`: VOC2007/JPEGImages/; empty where there is none."""
    folder = root_of(file, source).parent / "JPEGImages"
    return f"{folder.relative_to(source.images).as_posix()}/" if source.images in folder.parents else ""
