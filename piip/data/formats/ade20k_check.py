"""What is wrong in images with label maps: every pair is read, every number of every map accounted for."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from piip.contracts import IGNORE
from piip.data.formats.ade20k_files import Pair, classes_of, lookup, pairs_of, read_map, unexplained
from piip.data.images import SizeMismatchError, read_image
from piip.data.problems import Looked, Problem
from piip.data.sources import DataError, Source
from piip.spec import Ade20kSpec


def look_at(source: Source, spec: Ade20kSpec) -> Looked:
    """Every problem of every image and its map, at last of classes that are in no map.

    Raises:
        DataError: No maps, one name twice, or nobody says which classes there are, so that nothing can be listed.
    """
    classes, pairs = classes_of(source, spec), pairs_of(source)
    table = lookup(classes, spec)
    pixels = np.zeros(len(classes), dtype=np.int64)

    def of_pairs() -> Iterator[list[Problem]]:
        with ThreadPoolExecutor() as pool:
            for problems, found in pool.map(lambda pair: _of_pair(pair, source, table), pairs):
                pixels[:] += np.bincount(found, minlength=len(classes))
                yield problems

    def of_classes() -> Iterator[list[Problem]]:
        for label in np.flatnonzero(pixels == 0):
            message = f"{classes[label]['name']!r} (number {classes[label]['id']}) is in no map"
            yield [Problem("class without pixels", message, fatal=False)]

    images, maps = (sum(getattr(pair, part) is not None for pair in pairs) for part in ("image", "map"))
    return Looked(images, maps, len(classes), chain(of_pairs(), of_classes()))


def _of_pair(pair: Pair, source: Source, table: NDArray[np.uint16]) -> tuple[list[Problem], NDArray[Any]]:
    """What is wrong with an image and its map, and the labels of its pixels."""
    nothing = np.zeros(0, dtype=np.int64)
    if pair.image is None:
        return [Problem("map without image", f"{pair.map}: no {pair.name}.* in {source.images}")], nothing
    if pair.map is None:
        return [Problem("image without map", f"{pair.image}: no {pair.name}.* in {source.annotations}")], nothing
    try:
        numbers = read_map(pair.map)
    except DataError as error:
        return [*_of_image(pair, None), Problem("broken map", str(error))], nothing
    problems = _of_image(pair, (numbers.shape[0], numbers.shape[1]))
    strange = unexplained(numbers, table)
    for number, count in strange.items():
        problems.append(Problem(f"number {number} is no class", f"{pair.map}: {count} pixels"))
    labels = table[numbers] if not strange else np.zeros(0, dtype=np.uint16)
    known = labels[labels != IGNORE]
    if not len(known) and not strange:
        problems.append(Problem("map without class", f"{pair.map}: all pixels are ignored", fatal=False))
    return problems, known.astype(np.int64)


def _of_image(pair: Pair, size: tuple[int, int] | None) -> list[Problem]:
    assert pair.image is not None
    try:
        read_image(pair.image, size)
    except SizeMismatchError as error:
        return [Problem("image size", str(error).replace("its annotations say", f"{pair.map} is"))]
    except DataError as error:
        return [Problem("broken image", str(error))]
    return []
