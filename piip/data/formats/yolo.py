"""YOLO's folders: images/ and labels/ side by side, a text file an image, a line an object.

    CLASS CX CY W H                     a box: its middle, width and height, in parts of the image's sides
    CLASS X Y X Y X Y ..                a polygon of three corners or more (YOLO-seg; boxes that are turned have four)
    CLASS CX CY W H X Y [V] X Y [V] ..  keypoints (YOLO-pose), where data.yaml says kpt_shape

Ultralytics' documents describe them (docs.ultralytics.com/datasets). An image without a file of labels, or with an empty one, is
background. A line that is there twice is one object, as there.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from piip.console import several
from piip.data.files import files_below, is_folder, is_there
from piip.data.formats.detected import ReadDataset
from piip.data.formats.reading import ReadDocument, Reading, number, shown
from piip.data.formats.yolo_lists import ENDING, is_listed, labelled_images, labels_of
from piip.data.formats.yolo_names import Names, names_of
from piip.data.problems import Problem
from piip.data.sources import Source
from piip.spec import YoloSpec

ROUNDING = 0.01
"""How far beyond 0..1 a number may be: tools round."""


def read(source: Source, spec: YoloSpec) -> ReadDocument:
    """The images of a folder, or of lists, with the objects of their label files.

    Raises:
        DataError: No images, or nobody says what the classes are called.
    """
    reading = Reading(source, skip=spec.broken_images == "skip")
    names = names_of(source)
    reading.more(repr(names).encode())
    images = labelled_images(reading)
    if not any(map(is_there, images)):
        said = f"none of {several(len(images), 'image')} has a file of labels; looked for {next(iter(images))}"
        reading.problems.append(Problem("no labels", f"0 of 0 objects can be learned or scored: {said}"))
    sizes = reading.sizes(list(images.values()))
    for file, name in images.items():
        if name in sizes:
            height, width = sizes[name]
            image_id = reading.add_image(name, height, width)
            if is_there(file):
                _read_labels(reading, file, image_id, (height, width), names)
    if not is_listed(source):
        _labels_without_image(reading, labels_of(source), images)
    return reading.document(names.categories)


class YoloDataset(ReadDataset):
    """A split of YOLO's folders."""

    reader = staticmethod(read)


def _labels_without_image(reading: Reading, labels: Path, images: dict[Path, str]) -> None:
    if not is_folder(labels):
        return
    for path in files_below(labels):
        stem, ending = os.path.splitext(Path(path).relative_to(labels).as_posix())
        if ending.lower() == ENDING and Path(path) not in images and not stem.endswith(("classes", "notes")):
            reading.begin(Path(path))
            reading.fault("labels without image", None, f"no image {stem}.* in {reading.source.images}", fatal=False)


def _read_labels(reading: Reading, file: Path, image_id: int, size: tuple[int, int], names: Names) -> None:
    seen: set[str] = set()
    for place, line in enumerate(reading.text_of(file).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if line in seen:
            reading.fault("label twice", place, "the same line is there before; left out", fatal=False)
            continue
        seen.add(line)
        values = [number(word) for word in words]
        if fault := _fault(values, words, names):
            reading.fault(*fault[:1], place, fault[1])
            continue
        _add(reading, place, image_id, np.array(values, dtype=np.float64), size, names)


def _fault(values: list[float | None], words: list[str], names: Names) -> tuple[str, str] | None:
    """Kind and words of what is wrong with a line."""
    if None in values:
        return "label is no number", f"{shown(words[values.index(None)])} is no number"
    label, *places = [value for value in values if value is not None]
    if label != int(label) or not 0 <= label < len(names.classes):
        return (
            "unknown category",
            f"class {words[0]}; {len(names.classes)} classes are known, 0 to {len(names.classes) - 1}",
        )
    if names.keypoints:
        wanted = 4 + names.keypoints[0] * names.keypoints[1]
        if len(places) != wanted:
            return (
                "bad label",
                f"{len(words)} numbers; {wanted + 1} are wanted: class, box and {names.keypoints[0]} keypoints",
            )
        places = places[:4]
    elif len(places) == 5:
        return "bad label", "6 numbers; are these predictions, with a score? CLASS CX CY W H is wanted"
    elif len(places) != 4 and (len(places) < 6 or len(places) % 2):
        return "bad label", f"{len(words)} numbers; CLASS CX CY W H, or CLASS and at least three pairs X Y, are wanted"
    odd = next((value for value in places if not -ROUNDING <= value <= 1 + ROUNDING), None)
    if odd is not None:
        return (
            "label as pixels",
            f"{odd:g} is not within 0..1: parts of the image's width and height are wanted, not pixels",
        )
    return None


def _add(
    reading: Reading, place: int, image_id: int, values: "np.ndarray[Any, Any]", size: tuple[int, int], names: Names
) -> None:
    height, width = size
    category, places = int(values[0]) + 1, values[1:]
    if names.keypoints or len(places) == 4:
        cx, cy, w, h = (places[:4] * (width, height, width, height)).tolist()
        more = _keypoints(places[4:], size, names.keypoints) if names.keypoints else {}
        reading.add(place, image_id, category, [cx - w / 2, cy - h / 2, w, h], **more)
        return
    corners = places.reshape(-1, 2) * (width, height)
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    polygon = corners.ravel().tolist()
    reading.add(place, image_id, category, [left, top, right - left, bottom - top], segmentation=[polygon])


def _keypoints(places: "np.ndarray[Any, Any]", size: tuple[int, int], shape: tuple[int, int]) -> dict[str, Any]:
    """As COCO has them: x, y, visibility (0 not there, 1 hidden, 2 seen)."""
    points = places.reshape(shape)
    if shape[1] == 2:  # YOLO-pose of two numbers: 0, 0 is a point that is not there
        points = np.column_stack([points, 2.0 * points.any(axis=1)])
    points = points * (size[1], size[0], 1)
    return {"keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
