"""The splits of data that one path holds: a folder laid out as the data set's download, or YOLO's data.yaml."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from piip.data.files import exists, is_folder, is_there
from piip.data.locating import source_at
from piip.data.sources import DataError, Source
from piip.options import UsageError
from piip.spec import Data, YoloSpec
from piip.spec.data import words_for
from piip.spec.places import Places

SPLITS = ("train", "val", "test")
YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


def splits_in(path: Path, data: Data) -> dict[str, Source]:
    """Split -> its files, of those that are there.

    Args:
        path: A folder, or YOLO's data.yaml.
        data: What is looked for.

    Raises:
        DataError: Nothing of the kind is there: says what is looked for.
    """
    if isinstance(data, YoloSpec) and (file := _yaml_of(path)):
        return _of_yaml(file)
    found = {split: source for split in SPLITS for source in _placed(path, data, split)}
    if not found:
        wanted = " or ".join(dict.fromkeys(_last(place.annotations) for place in data.places.values()))
        yaml = ", or a data.yaml" if isinstance(data, YoloSpec) else ""
        raise DataError(
            f"{path}: no data of kind {data.kind} in it; looked for {wanted}{yaml}. Give annotations and images instead"
        )
    return found


def whole_of(source: Source, data: Data) -> tuple[Path, str] | None:
    """The one path and the split that a source is of, where there is one; None: it was given by its own paths."""
    for path in filter(None, (source.names, source.images)):
        try:
            splits = splits_in(path, data)
        except DataError:
            continue  # that path holds no data; whoever asks goes by the source's own
        if found := [split for split, one in splits.items() if one == source]:
            return path, found[0]
    return None


def given_source(annotations: Path, images: Path | None, names: Path | None, split: str | None, data: Data) -> Source:
    """A split as a verb's words name it: by two paths, or by one that holds several splits.

    Args:
        annotations: A file or a folder; the one path, where `images` is None.
        images: The folder of images.
        names: The file that names the classes.
        split: Of one path; None: train.
        data: What they are.

    Raises:
        UsageError: The folder of images is missing, or there is no such split.
    """
    if images is not None or not next(iter(data.places.values())).apart:
        return Source(annotations, images or annotations, names)
    if is_there(annotations) and annotations.suffix not in (".yaml", ".yml"):
        raise UsageError(f"data for {words_for(data)} need the folder of their images, too: ANNOTATIONS IMAGES")
    splits, wanted = splits_in(annotations, data), split or "train"
    if wanted not in splits:
        raise UsageError(f"--split {wanted}: {annotations} has {', '.join(splits)}")
    return replace(splits[wanted], names=names or splits[wanted].names)


def _placed(path: Path, data: Data, split: str) -> Iterator[Source]:
    """A split below `path`, which may be any of the folders that the data set's own places begin with; the first one last."""
    for place in reversed(data.places.values()):
        folders = len(PurePosixPath(place.images).parts)
        for dropped in range(len(PurePosixPath(place.annotations).parts)):
            source = source_at(place, path, split, without=dropped)
            there = exists(source.annotations) and all(map(exists, _lists(place, path, dropped)))
            if there and is_folder(source.images) and (folders > dropped or (place.more and folders == dropped)):
                yield source


def _lists(place: Places, path: Path, dropped: int) -> Iterator[Path]:
    """What a place adds to any of its splits: without it, it is another one."""
    return (one for split, _ in place.more for one in source_at(place, path, split, without=dropped).more)


def _last(pattern: str) -> str:
    return "/".join(PurePosixPath(pattern).parts[1:])


def _yaml_of(path: Path) -> Path | None:
    if is_there(path):
        return path
    return next((path / name for name in YAMLS if is_there(path / name)), None)


def _of_yaml(file: Path) -> dict[str, Source]:
    from piip.data.formats.yolo_names import read_yaml

    said = read_yaml(file)
    root = file.parent / str(said.get("path") or "")
    if not is_folder(root):
        root = file.parent  # the machine it was written on had another place
    said = {"val": said.get("validation")} | {key: entry for key, entry in said.items() if entry}
    found = {split: _split(file, root, split, said[split]) for split in SPLITS if said.get(split)}
    if not found:
        raise DataError(f"{file}: no split: train: and val: with folders of images are wanted")
    return found


def _split(file: Path, root: Path, split: str, said: Any) -> Source:
    """A split: one folder of images, a list (train.txt), or several of these."""
    entries = said if isinstance(said, list) else [said]
    if odd := next((entry for entry in entries if not isinstance(entry, str)), None):
        wanted = "a folder of images, a .txt with a path in every line, or several of these"
        raise DataError(f"{file}: {split} has {str(odd)[:80]!r}; {wanted} are wanted")
    first, *more = (_place(root, entry) for entry in entries)
    listed = bool(more) or (first.suffix == ".txt" and not is_folder(first))
    return Source(first, root if listed else first, file, tuple(more))


def _place(root: Path, said: str) -> Path:
    """A folder of images or a list; Roboflow's begin with ../ and lie beside the file all the same."""
    places = [root / said, root / said.removeprefix("../")]
    return next((place for place in places if exists(place)), places[0])
