"""COCO's keypoints: instances with x, y, visibility (0 not annotated, 1 hidden, 2 seen) of each point, whose names the category has."""

from collections.abc import Iterator
from typing import Any

from piip.data.formats.coco_json import Document
from piip.data.formats.coco_json import read as read_json
from piip.data.formats.coco_shapes import is_number, skeleton_of
from piip.data.formats.detected import ReadDataset
from piip.data.formats.lvis import whole
from piip.data.formats.reading import ReadDocument, shown
from piip.data.problems import Problem
from piip.data.sources import Source
from piip.spec import KeypointsSpec


def read(source: Source, spec: KeypointsSpec) -> ReadDocument:
    """The file.

    Raises:
        DataError: No such file, no JSON, or without COCO's lists.
    """
    del spec
    document = read_json(source.annotations)
    return whole(document, list(_problems(document)), source)


class KeypointsDataset(ReadDataset):
    """A split with keypoints."""

    reader = staticmethod(read)


def _problems(document: Document) -> Iterator[Problem]:
    counts: dict[Any, int] = {}
    for category in filter(_is_entry, document["categories"]):
        names = category.get("keypoints", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            said = f"category {shown(category.get('id'))} has keypoints {shown(names)}; a list of names is wanted"
            yield Problem("bad names of keypoints", said)
        elif isinstance(category.get("id"), int):
            counts[category["id"]] = len(names)
        if category.get("skeleton") and not skeleton_of(category):
            said = f"category {shown(category.get('id'))} has skeleton {shown(category['skeleton'])}"
            yield Problem("bad skeleton", f"{said}; pairs of keypoints, from 1, are wanted. Not drawn", fatal=False)
    if not any(counts.values()):
        yield Problem("no keypoints", "no category names its keypoints")
    for annotation in filter(_is_entry, document["annotations"]):
        category, points = annotation.get("category_id"), annotation.get("keypoints")
        wanted = counts.get(category) if isinstance(category, int) else None
        if points is None or wanted is None:
            continue  # of a category that is none, find_problems tells
        if fault := _fault(points, annotation.get("num_keypoints"), wanted):
            yield Problem("bad keypoints", f"annotation {shown(annotation.get('id'))} {fault}")


def _is_entry(node: Any) -> bool:
    return isinstance(node, dict)


def _fault(points: Any, counted: Any, wanted: int) -> str | None:
    if not isinstance(points, list) or len(points) != 3 * wanted or not all(map(is_number, points)):
        return f"has keypoints {shown(points)}; x, y, visibility of each of {wanted} are wanted"
    seen = points[2::3]
    if odd := [value for value in seen if value not in (0, 1, 2)]:
        return f"has a keypoint of visibility {odd[0]}; 0, 1 or 2 is wanted"
    marked = sum(value > 0 for value in seen)
    return None if counted in (None, marked) else f"has num_keypoints {shown(counted)}, and {marked} that are marked"
