"""Which images a split of YOLO's has, and where the labels of each are.

One folder of images, a list (train.txt: a path in every line), or several of both, as Ultralytics' data.yaml may say
(docs.ultralytics.com/datasets/detect). A line that begins with ./ is a path from the list's folder, as there; another one that is not
absolute, from that folder or from data.yaml's `path`. The labels of images/a/1.jpg are labels/a/1.txt: the last images/ of the path counts.
"""

import os
from pathlib import Path

from piip.data.files import entries, is_folder, is_there
from piip.data.formats.photographs import ENDINGS, images_below, is_photograph
from piip.data.formats.reading import Reading, shown
from piip.data.sources import DataError, Source
from piip.data.text import is_text

ENDING = ".txt"


def is_listed(source: Source) -> bool:
    """Whether paths name the images: a list of them, or several lists and folders; else `annotations` is a folder of labels."""
    return bool(source.more) or (source.annotations.suffix == ".txt" and not is_folder(source.annotations))


def labels_of(source: Source) -> Path:
    """The folder that labels are in, or begin with.

    Where one folder is given for both, it is that of images: labels/ stands in for the last images/ of its path, or they lie together.
    """
    if is_listed(source):
        return source.annotations.parent
    return source.annotations if source.annotations != source.images else labels_beside(source.images)


def labels_beside(folder: Path) -> Path:
    """The folder of the labels of a folder of images."""
    parts = folder.parts
    if "images" in parts:
        at = len(parts) - 1 - parts[::-1].index("images")
        beside = Path(*parts[:at], "labels", *parts[at + 1 :])
        if is_folder(beside):
            return beside
    return folder


def labelled_images(reading: Reading) -> dict[Path, str]:
    """The file of labels, there or not -> the image's path below the source's folder of images, in order.

    Raises:
        DataError: No images, or two that share a file of labels.
    """
    source, labels, found = reading.source, dict[Path, _Labels](), dict[Path, str]()
    listed = is_listed(source)
    paths = _listed(reading) if listed else _in(reading, source.images)
    for path in dict.fromkeys(paths):
        if path.parent not in labels:
            labels[path.parent] = _Labels(labels_beside(path.parent) if listed else _parallel(source, path.parent))
        name, file = _name(path, source.images), labels[path.parent].of(path.stem)
        if file in found:
            raise DataError(
                f"{source.images}: {found[file]} and {name} share the labels {file.name}; which of them is meant?"
            )
        found[file] = name
    if not found:
        raise DataError(f"{source.annotations if listed else source.images}: no images, which end in {_endings()}")
    return found


def _parallel(source: Source, folder: Path) -> Path:
    return labels_of(source) / folder.relative_to(source.images)


class _Labels:
    """The files of labels in a folder: their ending is .txt, of some systems .TXT."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        names = sorted(name for name in entries(folder)[1] if name.lower().endswith(ENDING))
        self._others = {name[: -len(ENDING)]: name for name in names if not name.endswith(ENDING)}

    def of(self, stem: str) -> Path:
        """The file of an image, there or not."""
        file = self._folder / f"{stem}{ENDING}"
        return file if stem not in self._others or is_there(file) else self._folder / self._others[stem]


def _in(reading: Reading, folder: Path) -> list[Path]:
    return [Path(path) for path in images_below(reading, folder)]


def _listed(reading: Reading) -> list[Path]:
    found: list[Path] = []
    known: set[Path] = set()
    for entry in (reading.source.annotations, *reading.source.more):
        new = _in(reading, entry) if is_folder(entry) else _of_list(reading, entry, known)
        known.update(new)
        found += new
    return found


def _of_list(reading: Reading, file: Path, known: set[Path]) -> list[Path]:
    """The images of a list; one that is there already is told, and taken once."""
    found: dict[Path, None] = {}
    for place, line in enumerate(reading.text_of(file, "list of images").splitlines(), start=1):
        said = line.strip().replace("\\", "/")
        if not said:
            continue
        if not is_text(said) or not is_photograph(said):
            reading.fault("no image in list", place, f"{shown(line)}; a path that ends in {_endings()} is wanted")
            continue
        path = _meant(said, file.parent, reading.source.images)
        if path in known or path in found:
            reading.fault("image twice", place, f"{shown(said)} is there before; taken once", fatal=False)
        found[path] = None
    return list(found)


def _meant(said: str, beside: Path, root: Path) -> Path:
    """The path that a line of a list means: beside the list, or below the root, where it is there; else the first."""
    places = [beside / said] if said.startswith("./") else [beside / said, root / said]
    path = next((place for place in places if is_there(place)), places[0])
    return Path(os.path.normpath(path))


def _name(path: Path, root: Path) -> str:
    """Below the folder of images, or from there: ../other/1.jpg."""
    if path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return Path(os.path.relpath(os.path.realpath(path), os.path.realpath(root))).as_posix()


def _endings() -> str:
    return ", ".join(sorted(ENDINGS))
