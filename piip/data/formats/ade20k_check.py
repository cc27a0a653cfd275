"""What is wrong in images with label maps: every pair is read, every number of every map accounted for."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from piip.contracts import IGNORE
from piip.data.formats.ade20k_files import (
    Pair,
    classes_of,
    lookup,
    no_class,
    nothing_to_learn,
    pairs_of,
    read_map,
    read_photograph,
    unexplained,
)
from piip.data.images import SizeMismatchError, read_image
from piip.data.problems import Looked, Problem, Seen
from piip.data.sources import DataError, Source
from piip.spec import Ade20kSpec


def look_at(source: Source, spec: Ade20kSpec) -> Looked:
    """Every problem of every image and its map, at last of classes that are in no map.

    Raises:
        DataError: No maps, one name twice, or nobody says which classes there are, so that nothing can be listed.
    """
    classes, pairs = classes_of(source, spec), pairs_of(source)
    table = lookup(classes, spec)
    counted, seen = _Counted(classes), Seen()

    def of_pairs() -> Iterator[list[Problem]]:
        with ThreadPoolExecutor() as pool:
            for problems, found, total in pool.map(lambda pair: _of_pair(pair, source, table), pairs):
                counted.add(found, total)
                yield problems

    def of_split() -> Iterator[list[Problem]]:
        yield counted.problems(source)
        seen.training = counted.as_words()
        seen.scoring = counted.as_words()

    images, maps = (sum(getattr(pair, part) is not None for pair in pairs) for part in ("image", "map"))
    return Looked(images, maps, len(classes), chain(of_pairs(), of_split()), seen)


class _Counted:
    """Pixels of all maps by what they teach."""

    def __init__(self, classes: list[dict[str, Any]]):
        self.classes = classes
        self.pixels = np.zeros(len(classes), dtype=np.int64)
        self.total = self.maps = self.taught = 0
        self.all_known = True

    def add(self, labels: NDArray[Any] | None, total: int) -> None:
        """A map's labels, of `total` pixels; None of a map that could not be read or has strange numbers."""
        self.all_known &= labels is not None
        labels = np.zeros(0, dtype=np.int64) if labels is None else labels
        self.pixels += np.bincount(labels, minlength=len(self.classes))
        self.total, self.maps, self.taught = self.total + total, self.maps + 1, self.taught + bool(len(labels))

    def problems(self, source: Source) -> list[Problem]:
        """Classes that nothing is learned of; that nothing is learned at all."""
        if not self.pixels.any():
            return [Problem("nothing to learn", nothing_to_learn(source, self.maps))] if self.all_known else []
        names = Counter(c["name"] for c in self.classes)
        twice = (
            Problem("two classes of one name", f"{count} classes are called {name!r}", fatal=False)
            for name, count in names.items()
            if count > 1
        )
        missing = (self.classes[label] for label in np.flatnonzero(self.pixels == 0))
        return [
            *twice,
            *self._alone(),
            *(
                Problem("class without pixels", f"{c['name']!r} (number {c['id']}) is in no map", fatal=False)
                for c in missing
            ),
        ]

    def _alone(self) -> list[Problem]:
        """Says where one class is all there is: masks of 0 and 255 look so, as 255 mostly means that a pixel is ignored."""
        there = np.flatnonzero(self.pixels)
        if len(there) > 1:
            return []
        name, ignored = self.classes[there[0]]["name"], self.total - int(self.pixels.sum())
        message = (
            f"{name!r} is the only class that has pixels, {ignored} pixels are ignored: "
            "nothing to tell apart. Ignored are data.ignore_value and, with data.reduce_zero_label, 0: is one of them a class?"
        )
        return [Problem("one class alone", message, fatal=False)]

    def as_words(self) -> dict[str, int]:
        """What there is to learn and to score, which is the same."""
        known = int(self.pixels.sum())
        return {
            "images": self.maps, "images with classes": self.taught, "classes": int((self.pixels > 0).sum()),
            "pixels": known, "ignored pixels": self.total - known,
        }  # fmt: skip


def _of_pair(pair: Pair, source: Source, table: NDArray[np.uint16]) -> tuple[list[Problem], NDArray[Any] | None, int]:
    """What is wrong with an image and its map, the labels of its pixels that have one (None: nobody knows), and how many pixels it has."""
    if pair.image is None:
        return [Problem("map without image", f"{pair.map}: no {pair.name}.* in {source.images}")], None, 0
    if pair.map is None:
        return [Problem("image without map", f"{pair.image}: no {pair.name}.* in {source.annotations}")], None, 0
    try:
        numbers = read_map(pair.map)
    except DataError as error:
        return [*_of_image(pair, None), Problem("broken map", str(error))], None, 0
    problems = _of_image(pair, (numbers.shape[0], numbers.shape[1]))
    if strange := unexplained(numbers, table):
        kinds = (Problem(f"number {k} is no class", f"{pair.map}: {no_class(k, n)}") for k, n in strange.items())
        return [*problems, *kinds], None, numbers.size
    labels = table[numbers]
    known = labels[labels != IGNORE]
    if not len(known):
        problems.append(Problem("map without class", f"{pair.map}: all pixels are ignored", fatal=False))
    return problems, known.astype(np.int64), numbers.size


def _of_image(pair: Pair, size: tuple[int, int] | None) -> list[Problem]:
    assert pair.image is not None
    try:
        if pair.map is None or size is None:
            read_image(pair.image)
        else:
            read_photograph(pair.image, pair.map, size)
    except SizeMismatchError as error:
        return [Problem("image size", str(error))]
    except DataError as error:
        return [Problem("broken image", str(error))]
    return []
