"""COCO's JSON: read and checked, once a process."""

import gc
import json
import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from piip.console import one_line
from piip.data.files import bytes_in, is_there, version
from piip.data.formats.coco_faults import category_problems, find_problems
from piip.data.formats.coco_shapes import skeleton_of
from piip.data.likeness import looks_like
from piip.data.problems import Problem
from piip.data.sources import DataError
from piip.data.text import read_text

log = logging.getLogger(__name__)


class Document(dict[str, Any]):
    """The parsed JSON: `images`, `annotations`, `categories`. Shared by all who read the file (see `read_checked`): never changed."""

    digest: bytes | None = None
    """Of all files it was read from, where these are not one file of JSON."""

    def where(self, annotation: Mapping[str, Any]) -> str:
        """Which annotation it is, for who looks for it in the files."""
        return f"annotation {annotation['id']} of image {annotation['image_id']}"


SMALL = 64 * 2**20
"""Bytes of a file that stays in memory, parsed, for who reads it next: COCO's validation annotations have 20 MB, training's 450."""

UNSEEN = ("one file of two images", "two categories of one name")
"""Problems that are forgiven and said wherever a file is read: the data may mean what they say, and no figure tells that they do not."""

_parsed: WeakValueDictionary[tuple[str, int, int], Document] = WeakValueDictionary()
_recent: deque[Document] = deque(maxlen=4)
_parsing = threading.Lock()


@contextmanager
def collection_paused() -> Iterator[None]:
    """No garbage collection meanwhile: with millions of new objects it takes most of the time and finds nothing."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _entry(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the file; one that says something twice would mean one thing here and another to other readers."""
    entry = dict(pairs)
    if len(entry) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{twice!r} is there twice in one object, {str(entry)[:80]}..; which of them is meant?")
    return entry


def read(path: Path) -> Document:
    """The parsed file; only its outermost form is checked.

    Raises:
        DataError: Missing, truncated or not COCO-format.
    """
    text = read_text(path, "annotations")
    try:
        with collection_paused():
            content = json.loads(text, object_pairs_hook=_entry)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        size = bytes_in(path)
        if not size:
            raise DataError(f"{path} is empty; COCO-format JSON is wanted. Copy it again.") from None
        advice = looks_like(path, "coco") or ". Copy it again."
        raise DataError(f"{path}: not complete JSON ({error}; the file has {size} bytes){advice}") from None
    missing = [
        key
        for key in ("images", "annotations", "categories")
        if not (isinstance(content, dict) and isinstance(content.get(key), list))
    ]
    if missing:
        raise DataError(f"{path}: not COCO-format detection data, it has no list {', '.join(map(repr, missing))}")
    return Document(content)


def read_checked(path: Path) -> Document:
    """The parsed file, free of fatal problems; once a process.

    A file that is read again gives the same document while anybody holds it, or while it is one of the last four small ones; a
    changed file (path, size, time of change) is another.

    Raises:
        DataError: With the first problem, and how many there are.
    """
    if not is_there(path):
        raise DataError(f"annotations not found: {path}")
    size, written = version(path)
    key = (str(path.resolve()), size, written)
    with _parsing:
        document = _parsed.get(key)
        if document is None:
            document = _parsed[key] = _checked(path)
            if size <= SMALL:
                _recent.append(document)
        return document


def classes_of(document: Document) -> list[dict[str, Any]]:
    """{"id", "name"} in order of label, which is that of ids; names as they are shown, on one line.

    A class that says how its keypoints are joined keeps that: `skeleton`, pairs counted from 1, as COCO has it.
    """
    classes = ({"id": c["id"], "name": one_line(c["name"])} | skeleton_of(c) for c in document["categories"])
    return sorted(classes, key=lambda c: c["id"])


def read_classes(path: Path) -> list[dict[str, Any]]:
    """The classes of a file whose annotations nobody asks for.

    Raises:
        DataError: With the first problem of its categories.
    """
    document = read(path)
    require(path, category_problems(document["categories"]))
    return classes_of(document)


def forget() -> None:
    """Read files anew: where they are held only by this room."""
    _recent.clear()


def _checked(path: Path) -> Document:
    document = read(path)
    with collection_paused():
        require(path, find_problems(document))
    return document


def require(path: Path, problems: Iterable[Problem], check: str = "python -m piip.data.check {path} IMAGES") -> None:
    """Refuses what is fatal; of what is forgiven, says what nobody would see in a figure.

    Args:
        path: Where the annotations are.
        problems: Of them.
        check: What shows all of them.

    Raises:
        DataError: With the first fatal problem, and how many there are.
    """
    found = [problem for problem in problems if problem.fatal or problem.kind in UNSEEN]
    for kind in UNSEEN:
        if told := [problem.message for problem in found if problem.kind == kind]:
            log.warning("%s: %d x %s, first: %s", path, len(told), kind, told[0])
    fatal = [problem for problem in found if problem.fatal]
    if fatal:
        more = f" ({len(fatal) - 1} more: {check.format(path=path)})" if len(fatal) > 1 else ""
        raise DataError(f"{path}: {fatal[0].message}{more}")
