"""Looks at all of a COCO-format data set: its annotations and every image."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from piip.data.formats.coco_faults import find_problems
from piip.data.formats.coco_json import Document, read
from piip.data.problems import Looked, Problem
from piip.data.sources import DataError, Source


def look_at(source: Source) -> Looked:
    """Every problem.

    Raises:
        DataError: The annotation file is missing, not JSON or not COCO-format, so that nothing can be listed.
    """
    document = read(source.annotations)
    images, annotations, categories = (len(document[part]) for part in ("images", "annotations", "categories"))
    problems = chain([list(find_problems(document))], _image_files(document, source.images))
    return Looked(images, annotations, categories, problems)


def _image_files(document: Document, folder: Path) -> Iterator[list[Problem]]:
    """Decodes every image."""
    from piip.data.images import find_images  # with PyTorch: neither --help nor a wrong path waits for it

    images = [
        image for image in document["images"] if isinstance(image, dict) and isinstance(image.get("file_name"), str)
    ]
    for image, path in zip(images, find_images(folder, (i["file_name"] for i in images)), strict=True):
        problem = _image_problem(image, path, folder)
        yield [problem] if problem else []


def _image_problem(image: dict[str, Any], path: Path | None, folder: Path) -> Problem | None:
    from piip.data.images import SizeMismatchError, read_image

    who = f"image {image.get('id')}"
    if path is None:
        return Problem("image not found", f"{who}: not found: {folder / image['file_name']}")
    height, width = image.get("height"), image.get("width")
    try:
        # without a size in the annotations (find_problems has told) the file itself is still looked at
        read_image(path, (height, width) if isinstance(height, int) and isinstance(width, int) else None)
    except SizeMismatchError as error:
        return Problem("image size", f"{who}: {error}")
    except DataError as error:
        return Problem("broken image", f"{who}: {error}")
    return None
