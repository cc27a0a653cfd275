"""What the classes of YOLO's folders are called."""

import reprlib
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from piip.console import one_line
from piip.data.files import is_there
from piip.data.formats.coco_keypoints import is_mirror
from piip.data.formats.reading import labelled
from piip.data.formats.yolo_lists import labels_of
from piip.data.sources import DataError, Source
from piip.data.text import is_text, read_text

NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "classes.txt", "obj.names")
"""Files of names that tools write, in the order in which they are looked for."""


class Names(NamedTuple):
    """What a file of names says."""

    classes: list[str]
    """In order of number, which counts from 0."""
    keypoints: tuple[int, int] | None = None
    """Keypoints of an object, and numbers of each (2, or 3 with visibility), where labels have them."""
    mirrored: tuple[int, ...] = ()
    """Which keypoint stands at each place once an image is mirrored (flip_idx); empty: nobody says."""
    points: tuple[str, ...] = ()
    """What the keypoints are called (kpt_names, one list for all classes); empty: nobody says."""

    @property
    def categories(self) -> list[dict[str, Any]]:
        """As COCO's files have them, numbered from 1."""
        said = {"flip_idx": list(self.mirrored)} if self.mirrored else {}
        if self.keypoints:
            said |= {"keypoints": list(self.points or map(str, range(self.keypoints[0])))}
        return [category | said for category in labelled(self.classes)]


def names_of(source: Source) -> Names:
    """The names of classes: of the source's file, or of one beside the labels or up to three folders above.

    Raises:
        DataError: There is none, or it is in no known form.
    """
    labels = labels_of(source).absolute()
    places = [folder / name for folder in (labels, *labels.parents[:3]) for name in NAMES]
    file = source.names or next((path for path in places if is_there(path)), None)
    if file is None:
        raise DataError(
            f"what are the classes of the labels in {labels} called? Give data.yaml, or a file with a name in every line, the first one "
            f"of number 0: --names FILE (looked for: {', '.join(NAMES)} there and up to three folders above)"
        )
    if file.suffix in (".yaml", ".yml"):
        found = _of_yaml(file)
    else:
        found = Names([one_line(line) for line in read_text(file, "names").rstrip().splitlines()])
    if not found.classes or not all(found.classes):
        raise DataError(
            f"{file}: {'a class without a name' if found.classes else 'no names'}; one for every class is wanted"
        )
    return found


def read_yaml(file: Path) -> dict[str, Any]:
    """What a data.yaml says.

    Raises:
        DataError: It is not there, or no YAML with names for values.
    """
    try:
        said = yaml.safe_load(read_text(file, "data.yaml"))
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: no YAML ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(said, dict):
        raise DataError(
            f"{file}: no data.yaml; wanted: names: [first class, second class, ..], and train: and val: with folders of images"
        )
    return said


def _of_yaml(file: Path) -> Names:
    said = read_yaml(file)
    names = said.get("names")
    if isinstance(names, dict):
        if not all(type(key) is int for key in names) or sorted(names) != list(range(len(names))):
            raise DataError(
                f"{file}: names are numbered {reprlib.repr(list(names))}; each of 0 to {len(names) - 1} is wanted"
            )
        names = [names[k] for k in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str | int | float) for name in names):
        raise DataError(
            f"{file}: names is {reprlib.repr(names)}; a list of names, or a table of number and name, is wanted"
        )
    counted = said.get("nc", len(names))
    if counted != len(names):
        raise DataError(f"{file}: nc says {reprlib.repr(counted)} classes, names has {len(names)}")
    texts = [str(name) for name in names]
    if odd := [text for text in texts if not is_text(text)]:
        raise DataError(f"{file}: {odd[0]!r} is no name")
    shape = _keypoints(file, said.get("kpt_shape"))
    count = shape[0] if shape else 0
    classes = [one_line(text) for text in texts]
    return Names(
        classes, shape, _mirrored(file, said.get("flip_idx"), count), _points(file, said.get("kpt_names"), count)
    )


def _mirrored(file: Path, said: Any, count: int) -> tuple[int, ...]:
    if said is None or not count:
        return ()
    if not is_mirror(said, count):
        wanted = f"each of 0 to {count - 1} once, those that change places naming each other"
        raise DataError(f"{file}: flip_idx is {reprlib.repr(said)}; {wanted}, is wanted")
    return tuple(said)


def _points(file: Path, said: Any, count: int) -> tuple[str, ...]:
    """One list of names, or a table of such by class; classes that differ have none in common."""
    lists = list(said.values()) if isinstance(said, dict) else [said]
    if said is None or not count:
        return ()
    if (
        not all(isinstance(names, list) and len(names) == count and all(map(is_text, names)) for names in lists)
        or not lists
    ):
        raise DataError(
            f"{file}: kpt_names is {reprlib.repr(said)}; a list of {count} names, or one for each class, is wanted"
        )
    return tuple(lists[0]) if all(names == lists[0] for names in lists) else ()


def _keypoints(file: Path, said: Any) -> tuple[int, int] | None:
    if said is None:
        return None
    if isinstance(said, list) and len(said) == 2 and type(said[0]) is int and 0 < said[0] < 1000 and said[1] in (2, 3):
        return said[0], int(said[1])
    raise DataError(f"{file}: kpt_shape is {reprlib.repr(said)}; [number of keypoints, 2 or 3] is wanted")
