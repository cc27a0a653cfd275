"""Looks at all of a COCO-format data set: its annotations and every image."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from piip.data.formats.coco_counts import fate
from piip.data.formats.coco_faults import find_problems
from piip.data.formats.coco_json import Document, read
from piip.data.formats.coco_shapes import has_mask, is_whole
from piip.data.problems import Looked, Problem, Seen
from piip.data.runs import area
from piip.data.sources import DataError, Source
from piip.data.text import is_text


def look_at(source: Source) -> Looked:
    """Every problem.

    Raises:
        DataError: The annotation file is missing, not JSON or not COCO-format, so that nothing can be listed.
    """
    document, seen = read(source.annotations), Seen()
    images, annotations, categories = (len(document[part]) for part in ("images", "annotations", "categories"))
    problems = chain(_of_document(document, seen), image_files(document, source.images))
    return Looked(images, annotations, categories, problems, seen)


def _of_document(document: Document, seen: Seen) -> Iterator[list[Problem]]:
    found = list(find_problems(document))
    yield found
    yield from counted(document, seen, found)


def counted(document: Document, seen: Seen, found: Sequence[Problem]) -> Iterator[list[Problem]]:
    """Fills `seen`, where nothing that was found is fatal; gives what is found on the way."""
    if not any(problem.fatal for problem in found):
        yield list(_count(document, seen))


def _count(document: Document, seen: Seen) -> Iterator[Problem]:
    """Counts what a file without faults teaches and what is scored; names masks that say nothing."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    left_out, with_objects, masks = Counter[str](), set[int](), Counter[str]()
    for annotation in document["annotations"]:
        size, masked = sizes[annotation["image_id"]], has_mask(annotation)
        masks["scored"] += masked
        if (becomes := fate(annotation, *size)) != "learned":
            left_out[f"left out: {becomes}"] += 1
            continue
        with_objects.add(annotation["image_id"])
        has_pixels = masked and area(annotation["segmentation"], *size) > 0
        masks["masks" if has_pixels else "masks without a pixel" if masked else "boxes without a mask"] += 1
        if masked and not has_pixels:
            yield Problem(
                "mask without a pixel",
                f"{document.where(annotation)}: its box is learned, its mask is not",
                fatal=False,
            )
    total, crowds = len(document["annotations"]), left_out["left out: crowds"]
    boxes, scored = total - left_out.total(), masks.pop("scored")
    seen.training = {
        "images": len(sizes),
        "images with objects": len(with_objects),
        "boxes": boxes,
        "masks": masks.pop("masks", 0),
    }
    seen.training |= masks | left_out
    seen.scoring = {"images": len(sizes), "boxes": total - crowds, "masks": total - crowds if scored == total else 0}
    seen.scoring |= {"ignored: crowds": crowds} if crowds else {}


def image_files(document: Document, folder: Path) -> Iterator[list[Problem]]:
    """Decodes every image."""
    from piip.data.images import find_images  # with PyTorch: neither --help nor a wrong path waits for it

    images = [image for image in document["images"] if isinstance(image, dict) and is_text(image.get("file_name"))]
    for image, path in zip(images, find_images(folder, (i["file_name"] for i in images)), strict=True):
        problem = _image_problem(image, path, folder)
        yield [problem] if problem else []


def _image_problem(image: dict[str, Any], path: Path | None, folder: Path) -> Problem | None:
    from piip.data.images import SizeMismatchError, nearly, read_image

    who = f"image {image.get('id')}"
    if path is None:
        return Problem(
            "image not found", f"{who}: not found: {folder / image['file_name']}{nearly(folder, image['file_name'])}"
        )
    height, width = image.get("height"), image.get("width")
    # without a size in the annotations (find_problems has told) the file itself is still looked at
    size = (height, width) if is_whole(height) and is_whole(width) else None
    try:
        read_image(path, size)
    except SizeMismatchError as error:
        return Problem("image size", f"{who}: {error}")
    except DataError as error:
        return Problem("broken image", f"{who}: {error}")
    return None
