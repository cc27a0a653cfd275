"""Cityscapes' folders: gtFine/train/<city>/<name>_gtFine_instanceIds.png beside leftImg8bit/train/<city>/<name>_leftImg8bit.png.

A pixel of an instance is class * 1000 + number, of 16 bits; of anything else, the class alone: where it is a class that has instances,
a crowd of them that nobody told apart, neither learned nor wrong in scores. Classes and numbers are those of the data set's labels
(github.com/mcordts/cityscapesScripts, helpers/labels); a user's own file of names has a line a class, number and name.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from piip.console import one_line
from piip.data.files import files_below, require_text
from piip.data.formats.ade20k_files import read_map
from piip.data.formats.detected import ReadDataset
from piip.data.formats.photographs import ENDINGS, images_below, note_unused
from piip.data.formats.reading import ReadDocument, Reading
from piip.data.runs import Cut, compressed_cut
from piip.data.sources import DataError, Source
from piip.data.text import read_text
from piip.spec import CityscapesSpec

THINGS = {24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}
"""Label id -> name of the classes that have instances and are scored."""
MAP = re.compile(r"_(?:gt[A-Za-z]+_)?instanceIds\.png$")
IMAGES = ("_leftImg8bit.png", "_leftImg8bit.jpg", *ENDINGS)
CROWD_FROM = 1000


class Instance(NamedTuple):
    """What a map holds once."""

    label: int
    crowd: bool
    box: tuple[int, int, int, int]
    """x, y, width, height in pixels."""
    area: int
    segmentation: dict[str, Any]


def read(source: Source, spec: CityscapesSpec) -> ReadDocument:
    """The images that have a map, with the instances in it; maps are decoded by several threads, one an image.

    Raises:
        DataError: No maps, or a file of names in another form.
    """
    reading = Reading(source, line="instance", skip=spec.broken_images == "skip")
    classes = _classes(source)
    maps = _maps(source.annotations)
    paths = images_below(reading, source.images)
    images = {Path(path).relative_to(source.images).as_posix() for path in paths}
    names = [_image_of(path.relative_to(source.annotations).as_posix(), images) for path in maps]
    with ThreadPoolExecutor() as pool:
        for path, name, found in zip(maps, names, pool.map(lambda path: _instances(path, classes), maps), strict=True):
            reading.bytes_of(path)
            if isinstance(found, DataError):
                reading.fault("broken map", None, str(found), fatal=not reading.skip)
                continue
            size, instances = found
            image_id = reading.add_image(name, *size)
            for place, one in enumerate(instances, start=1):
                mask = {"segmentation": one.segmentation, "area": one.area}
                reading.add(place, image_id, one.label, one.box, iscrowd=int(one.crowd), **mask)
    note_unused(reading, paths, names)
    reading.more(repr(classes).encode())
    return reading.document({"id": number, "name": name} for number, name in classes.items())


class CityscapesDataset(ReadDataset):
    """A split of Cityscapes."""

    reader = staticmethod(read)


def _classes(source: Source) -> dict[int, str]:
    if source.names is None:
        return THINGS
    lines = [line.split(None, 1) for line in read_text(source.names, "names").splitlines() if line.strip()]
    odd = next((line for line in lines if len(line) != 2 or not re.fullmatch(r"[0-9]{1,2}", line[0])), None)
    classes = {} if odd else {int(number): one_line(name) for number, name in lines}
    if odd or not classes or len(classes) < len(lines) or not all(classes.values()):
        raise DataError(
            f"{source.names}: {odd or 'a number twice, or no class'}; wanted: a line a class, its number (to 64) and name"
        )
    return classes


def _maps(folder: Path) -> list[Path]:
    maps = [Path(path) for path in files_below(folder) if MAP.search(path)]
    require_text(folder, [str(path) for path in maps])
    if not maps:
        raise DataError(f"{folder}: no maps of instances, which end in _instanceIds.png")
    return maps


def _image_of(map_name: str, images: set[str]) -> str:
    """The image of a map, below its folder: as the data set calls it, or as a user does, with another ending."""
    name = MAP.sub("", map_name)
    candidates = [f"{name}{ending}" for ending in IMAGES]
    return next((one for one in candidates if one in images), candidates[0])


def _instances(path: Path, classes: dict[int, str]) -> tuple[tuple[int, int], list[Instance]] | DataError:
    """Size of a map, and what is in it, by rising number in the map's pixels."""
    try:
        numbers = read_map(path)
    except DataError as error:
        return error
    found = []
    for value in np.unique(numbers).tolist():
        crowd = value < CROWD_FROM
        label = value if crowd else value // CROWD_FROM
        if label in classes:
            found.append(_instance(numbers == value, label, crowd=crowd))
    return numbers.shape, found


def _instance(mask: Any, label: int, *, crowd: bool) -> Instance:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left, height, width = int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
    cut = Cut(mask[top : top + height, left : left + width].astype(np.uint8), top, left)
    return Instance(label, crowd, (left, top, width, height), int(mask.sum()), compressed_cut(cut, *mask.shape))
