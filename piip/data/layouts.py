"""The splits of data that one path holds: a folder laid out as the data set's download, or YOLO's data.yaml."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from piip.data.files import exists, is_folder, is_there
from piip.data.sources import DataError, Source
from piip.options import UsageError
from piip.spec import Data, YoloSpec
from piip.spec.data import words_for

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
    names = {"split": split, "part": {"train": "training", "val": "validation"}.get(split, split)}
    names["voc"] = {"train": "trainval", "val": "test"}.get(split, split)
    for place in reversed(data.places.values()):
        annotations, images, classes = (
            PurePosixPath(pattern.format(**names)).parts if pattern else () for pattern in place[:3]
        )
        for dropped in range(len(annotations)):
            source = Source(path.joinpath(*annotations[dropped:]), path.joinpath(*images[dropped:]))
            if exists(source.annotations) and is_folder(source.images) and len(images) > dropped:
                file = path.joinpath(*classes[dropped:])
                yield Source(source.annotations, source.images, file if classes and is_there(file) else None)


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
    found = {split: _folder(file, root, split, said[split]) for split in SPLITS if said.get(split)}
    if not found:
        raise DataError(f"{file}: no split: train: and val: with folders of images are wanted")
    return {split: Source(folder, folder, file) for split, folder in found.items()}


def _folder(file: Path, root: Path, split: str, said: Any) -> Path:
    """The folder of a split's images; Roboflow's begin with ../ and lie beside the file all the same."""
    if not isinstance(said, str) or said.endswith(".txt"):
        raise DataError(
            f"{file}: {split} is {str(said)[:80]!r}; one folder of images is wanted (lists of files are not read)"
        )
    places = [root / said, root / said.removeprefix("../")]
    return next((place for place in places if is_folder(place)), places[0])
