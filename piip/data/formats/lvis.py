"""LVIS v1's JSON: COCO's, with 1203 classes, of which each image is annotated for some.

What an image says besides (lvisdataset.org): `neg_category_ids`, classes that are known not to be there, and
`not_exhaustive_category_ids`, of which not every object is annotated; a category's `frequency` is r, c or f (rare, common, frequent).
Images have no file_name but a `coco_url`, which ends in `train2017/000000391895.jpg`.
"""

import hashlib
from typing import Any

from piip.data.files import content
from piip.data.formats.coco_faults import by_id
from piip.data.formats.coco_json import Document
from piip.data.formats.coco_json import read as read_json
from piip.data.formats.coco_shapes import is_whole
from piip.data.formats.detected import ReadDataset
from piip.data.formats.reading import ReadDocument, Reading, shown
from piip.data.problems import Problem
from piip.data.sources import Source
from piip.data.text import is_text
from piip.metrics.lvis import LvisAP
from piip.spec import LvisSpec

FREQUENCIES = ("r", "c", "f")
LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


def read(source: Source, spec: LvisSpec) -> ReadDocument:
    """The file, its images with names.

    Raises:
        DataError: No such file, no JSON, or without COCO's lists.
    """
    del spec
    document = read_json(source.annotations)
    known = {category.get("id") for category in document["categories"] if isinstance(category, dict)}
    problems = [*_categories(document), *_images(document, known)]
    return whole(document, problems, source)


class LvisDataset(ReadDataset):
    """A split of LVIS."""

    reader = staticmethod(read)

    def metric(self) -> LvisAP:
        """As LVIS' authors score."""
        return LvisAP(self._truth)


def whole(document: Document, problems: list[Problem], source: Source) -> ReadDocument:
    """A document that came from COCO-shaped JSON, with what a reader found in it."""
    made = ByIdDocument(document, [], Reading(source).at, "")
    made.problems = problems
    made.digest = hashlib.sha256(content(source.annotations)).digest()
    return made


class ByIdDocument(ReadDocument):
    """A document whose annotations have ids in the file."""

    def where(self, annotation: Any) -> str:
        """By its id."""
        return by_id(annotation)


def _categories(document: Document) -> Any:
    for category in document["categories"]:
        frequency = category.get("frequency") if isinstance(category, dict) else None
        if frequency not in FREQUENCIES:
            said = f"category {shown(category.get('id') if isinstance(category, dict) else category)} has frequency {shown(frequency)}"
            yield Problem("no frequency", f"{said}; r, c or f is wanted")


def _images(document: Document, known: set[Any]) -> Any:
    for image in document["images"]:
        if not isinstance(image, dict):
            continue  # which find_problems tells
        who = f"image {shown(image.get('id'))}"
        url = image.get("coco_url")
        if "file_name" not in image and is_text(url):
            image["file_name"] = "/".join(str(url).split("/")[-2:])
        for name in LISTS:
            ids = image.get(name)
            if not isinstance(ids, list) or not all(is_whole(one) and one in known for one in ids):
                yield Problem(
                    "bad list of categories", f"{who}: {name} is {shown(ids)}; a list of ids of categories is wanted"
                )
