"""What is wrong in a COCO-format file: checked against what our code and pycocotools rely on, every fault with its id.

pycocotools accepts annotations of unknown images, duplicate ids, negative boxes and NaN in silence, and then trains or
scores on less than one thinks. Here they are found when a file is opened.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from piip.data.problems import Problem


def find_problems(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Every problem of a document that `coco_json.read` returned, in file order."""
    yield from _ids(document["categories"], "category")
    for category in document["categories"]:
        if not isinstance(_get(category, "name"), str):
            yield Problem("category without name", f"category {_get(category, 'id')} has no name")
    yield from _ids(document["images"], "image")
    for image in document["images"]:
        yield from _image_problems(image)
    sizes = {_get(i, "id"): (_get(i, "height"), _get(i, "width")) for i in document["images"] if _is_id(_get(i, "id"))}
    categories = {_get(category, "id") for category in document["categories"] if _is_id(_get(category, "id"))}
    yield from _ids(document["annotations"], "annotation")
    for annotation in document["annotations"]:
        yield from _annotation_problems(annotation, sizes, categories)


def _get(node: Any, key: str) -> Any:
    return node.get(key) if isinstance(node, dict) else None


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_finite(values: list[Any]) -> bool:
    """Whether all are finite numbers; by their sum, as COCO has fifty million."""
    try:
        return math.isfinite(sum(values))
    except TypeError:
        return False


def _ids(entries: list[Any], what: str) -> Iterator[Problem]:
    seen: set[int] = set()
    for number, entry in enumerate(entries):
        given = _get(entry, "id")
        if not _is_id(given):
            yield Problem(f"{what} id", f"{what} number {number} has id {given!r}; an integer is needed")
        elif given in seen:
            yield Problem(f"duplicate {what} id", f"{what} id {given} is there twice")
        else:
            seen.add(given)


def _image_problems(image: Any) -> Iterator[Problem]:
    name, height, width = (_get(image, key) for key in ("file_name", "height", "width"))
    if not isinstance(name, str) or not name:
        yield Problem("image without file", f"image {_get(image, 'id')} has file_name {name!r}")
    if not (_is_id(height) and _is_id(width) and height > 0 and width > 0):
        message = f"image {_get(image, 'id')} ({name}) has height {height!r}, width {width!r}; pixels are needed"
        yield Problem("image size", message)


def _annotation_problems(annotation: Any, sizes: dict[int, tuple[int, int]], categories: set[int]) -> Iterator[Problem]:
    who = f"annotation {_get(annotation, 'id')}"
    image_id, category_id, box = (_get(annotation, key) for key in ("image_id", "category_id", "bbox"))
    if not _is_id(image_id) or image_id not in sizes:
        yield Problem("unknown image", f"{who} is for image {image_id!r}, which is not in images")
        return
    if not _is_id(category_id) or category_id not in categories:
        yield Problem("unknown category", f"{who} has category {category_id!r}, which is not in categories")
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))) or min(box[2:]) < 0:
        message = f"{who} of image {image_id} has bbox {box}; four finite numbers x, y, width, height >= 0 are needed"
        yield Problem("bad box", message)
    elif all(map(_is_id, sizes[image_id])) and is_degenerate(box, *sizes[image_id]):
        message = f"{who} of image {image_id} has bbox {box}, nothing of it inside the image; left out"
        yield Problem("degenerate box", message, fatal=False)
    area = _get(annotation, "area")
    if area is not None and not (_is_number(area) and area >= 0):
        yield Problem("bad area", f"{who} of image {image_id} has area {area!r}")
    if _get(annotation, "segmentation") is None:
        message = f"{who} of image {image_id} has no mask: boxes alone are scored, and Mask R-CNN cannot learn from it"
        yield Problem("no mask", message, fatal=False)
    elif fault := segmentation_fault(annotation["segmentation"], sizes[image_id]):
        yield Problem("bad segmentation", f"{who} of image {image_id}: {fault}")


def is_degenerate(box: list[float], height: int, width: int) -> bool:
    """Whether nothing of the box x, y, width, height is inside the image."""
    x, y, w, h = box
    return min(x + w, width) - max(x, 0) <= 0 or min(y + h, height) - max(y, 0) <= 0


def segmentation_fault(segmentation: Any, size: tuple[int, int]) -> str | None:
    """What is wrong with a polygon list or an RLE of an image of `size` (height, width), in words; None: nothing."""
    if isinstance(segmentation, list):
        if not segmentation:
            return "segmentation is empty"
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                return "a polygon needs an even count of at least 6 numbers x, y, x, y, .."
            if not _are_finite(polygon):
                return "a polygon has a coordinate that is not a finite number"
        return None
    counts, given_size = _get(segmentation, "counts"), _get(segmentation, "size")
    if not isinstance(counts, str | list) or not isinstance(given_size, list):
        return "segmentation is neither a list of polygons nor an RLE with size and counts"
    if tuple(given_size) != size:
        return f"RLE of size {given_size}, but the image is {list(size)} (height, width)"
    runs = _runs(counts)
    # pycocotools writes past the end of its buffer on longer ones
    if runs is None or min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        return f"RLE runs do not add up to the image's {size[0] * size[1]} pixels"
    return None


def _runs(counts: str | list[Any]) -> list[int] | None:
    """Run lengths of an RLE, decoded if compressed; None when they are not readable."""
    if isinstance(counts, list):
        return counts if all(map(_is_id, counts)) else None
    # As pycocotools' rleFrString: 5 bits a character, least first, bit 5 = more follows, bit 4 of the last = sign;
    # from the fourth run on, the difference to the run two before.
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        chunk = ord(character) - 48
        if not 0 <= chunk < 64:
            return None
        value |= (chunk & 31) << shift
        shift += 5
        if not chunk & 32:
            value -= (1 << shift) if chunk & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs
