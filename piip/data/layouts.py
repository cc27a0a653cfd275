"""The splits of data that one path holds: a folder laid out as the data set's download, or YOLO's data.yaml."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from piip.data.files import entries, exists, is_folder, is_there
from piip.data.likeness import looks_like
from piip.data.locating import source_at
from piip.data.sources import DataError, Source
from piip.options import UsageError
from piip.spec import Data, YoloSpec
from piip.spec.data import words_for
from piip.spec.places import Places

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test", "trainval")
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
    if not (held := _held(path, data)):
        raise DataError(_nothing(path, data))
    return _chosen(held)


def _held(path: Path, data: Data) -> list[dict[str, Source]]:
    """The splits of each data set of this kind that is there."""
    found = (
        {split: source for split in SPLITS for source in _there(path, place, split)} for place in data.places.values()
    )
    return list(filter(None, found))


def _chosen(held: list[dict[str, Source]]) -> dict[str, Source]:
    """All splits are of one data set, as those of two may share images: the first one to train and to score on, or that of most splits."""
    return next((splits for splits in held if {"train", "val"} <= splits.keys()), max(held, key=len))


def told_splits(path: Path, data: Data, wanted: Sequence[str]) -> dict[str, Source]:
    """As `splits_in`, for who reads some of them: tells what else is there and is not read.

    Args:
        path: As there.
        data: As there.
        wanted: The splits that are read.

    Raises:
        DataError: As there; or one of `wanted` is in data.yaml and not on this machine.
    """
    splits = splits_in(path, data)
    if isinstance(data, YoloSpec) and (file := _yaml_of(path)):
        for split in wanted:
            if split in splits:
                _require_there(file, split, splits[split])
        return splits
    lists = {one.parent for source in splits.values() for one in (source.annotations, *source.more)}
    others = {source.annotations.parent for held in _held(path, data) for source in held.values()} - lists
    for folder in sorted(others):
        log.warning("%s is not read: the splits are those of %s", folder, ", ".join(map(str, sorted(lists))))
    return splits


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
        said = f"data for {words_for(data)} need the folder of their images, too: ANNOTATIONS IMAGES"
        raise UsageError(said + looks_like(annotations, data.kind))
    wanted = split or "train"
    splits = told_splits(annotations, data, [wanted])
    if wanted not in splits:
        raise UsageError(f"--split {wanted}: {annotations} has {', '.join(splits)}")
    return replace(splits[wanted], names=names or splits[wanted].names)


def _there(path: Path, place: Places, split: str) -> Iterator[Source]:
    """A split below `path`, which may be any of the folders that the data set's own places begin with."""
    return (source for source in _annotated(path, place, split) if is_folder(source.images))


def _annotated(path: Path, place: Places, split: str) -> Iterator[Source]:
    """The same, whether its images are there or not."""
    folders = len(PurePosixPath(place.images).parts)
    for dropped in range(len(PurePosixPath(place.annotations).parts)):
        source = source_at(place, path, split, without=dropped)
        there = exists(source.annotations) and all(map(exists, _lists(place, path, dropped)))
        if place.apart and not place.either and source.annotations == source.images:
            continue  # gtFine/ alone: its train/ is not that of the images
        if there and (folders > dropped or (place.more and folders == dropped)):
            yield source


def _nothing(path: Path, data: Data) -> str:
    """What is said where none of a kind's data are: what is missing, which kind may be meant, where such data are."""
    for source in (one for place in data.places.values() for split in SPLITS for one in _annotated(path, place, split)):
        return f"{source.annotations} is there, the folder of its images is not: {source.images}"
    wanted = [source_at(place, Path(), "train", without=1).annotations.as_posix() for place in data.places.values()]
    yaml = ", or a data.yaml" if isinstance(data, YoloSpec) else ""
    said = f"{path}: no data of kind {data.kind} in it; looked for {' or '.join(dict.fromkeys(wanted))}{yaml}"
    if advice := looks_like(path, data.kind):
        return said + advice
    folders = (path / name for name in sorted(entries(path)[0]))
    below = next((folder for folder in folders if _held(folder, data)), None)
    return f"{said}. {below} has such" if below else f"{said}. Give annotations and images instead"


def _require_there(file: Path, split: str, source: Source) -> None:
    """A split of data.yaml.

    Raises:
        DataError: A folder or a list of it is not there.
    """
    from piip.data.formats.yolo_names import read_yaml

    if gone := [place for place in (source.annotations, *source.more) if not exists(place)]:
        said = read_yaml(file).get("path")
        ignored = f" (path: {said} is no folder here: paths are from that of the file)"
        there = not said or is_folder(file.parent / str(said))
        raise DataError(f"{file}: {split} is not there: {gone[0]}{'' if there else ignored}")


def _lists(place: Places, path: Path, dropped: int) -> Iterator[Path]:
    """What a place adds to any of its splits: without it, it is another one."""
    return (one for split, _ in place.more for one in source_at(place, path, split, without=dropped).more)


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
    said = {"val": said.get("validation") or said.get("valid")} | {key: entry for key, entry in said.items() if entry}
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
