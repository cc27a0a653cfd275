"""What is wrong in a COCO-format file: checked against what our code and the scorer rely on, every fault with its id.

pycocotools accepts annotations of unknown images, duplicate ids, negative boxes and NaN in silence, and then trains or
scores on less than one thinks. Here they are found when a file is opened, for training and for scoring alike.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from piip.console import one_line
from piip.data.formats.coco_counts import Fates, fate, in_unit_square, is_crowd, over_the_edge
from piip.data.formats.coco_shapes import box_fault, has_mask, is_number, is_whole, segmentation_fault
from piip.data.limits import ID_BITS, MOST_PIXELS
from piip.data.problems import Problem
from piip.data.text import is_text

TOO_LARGE = "Cut it into tiles or make it smaller, and its annotations with it"
Sizes = Mapping[int, tuple[int, int]]
"""Image id -> (height, width), of images that have both."""

ROUNDING = 1.0
"""Pixels that boxes reach over the edge without a word: tools round, and some count a box's last pixel."""


Where = Callable[[Mapping[str, Any]], str]
"""Says which annotation it is, for who looks for it in the files."""


def by_id(annotation: Mapping[str, Any]) -> str:
    """As COCO's files have it."""
    return f"annotation {_short(_get(annotation, 'id'))} of image {_short(_get(annotation, 'image_id'))}"


def find_problems(document: Mapping[str, Any], where: Where = by_id) -> Iterator[Problem]:
    """Every problem of a document that `coco_json.read` returned, in file order.

    Args:
        document: COCO's, or what a reader of another format made.
        where: How annotations are called.
    """
    fatal = False
    fates = Fates()
    for problem in _problems(document, where, fates):
        fatal |= problem.fatal
        yield problem
    if not fatal and (nothing := fates.nothing_to_learn()):
        yield nothing


def category_problems(categories: list[Any]) -> Iterator[Problem]:
    """Every problem of the list of classes, looked at alone."""
    if not categories:
        yield Problem("no categories", "no categories: the list is empty")
    yield from _ids(categories, "category")
    yield from _names(categories)


def _problems(document: Mapping[str, Any], where: Where, fates: Fates) -> Iterator[Problem]:
    yield from category_problems(document["categories"])
    yield from _ids(document["images"], "image")
    yield from _images(document["images"])
    if not document["images"]:
        yield Problem("no images", "no images: the list is empty")
    sizes = {i["id"]: (i["height"], i["width"]) for i in document["images"] if _is_id(_get(i, "id")) and _size_of(i)}
    images = {_get(i, "id") for i in document["images"] if _is_id(_get(i, "id"))}
    categories = {_get(category, "id") for category in document["categories"] if _is_id(_get(category, "id"))}
    if isinstance(document["annotations"], list):  # columns count themselves
        yield from _ids(document["annotations"], "annotation")
    for annotation in document["annotations"]:
        yield from _annotation_problems(annotation, where, images, sizes, categories, fates)


def _get(node: Any, key: str) -> Any:
    return node.get(key) if isinstance(node, dict) else None


def _is_id(value: Any) -> bool:
    return is_whole(value) and -(2**ID_BITS) <= value < 2**ID_BITS


def _ids(entries: list[Any], what: str) -> Iterator[Problem]:
    seen: set[int] = set()
    for number, entry in enumerate(entries):
        given = _get(entry, "id")
        if not _is_id(given):
            message = f"{what} number {number} has id {_short(given)}; an integer of at most {ID_BITS} bits is needed"
            yield Problem(f"{what} id", message)
        elif given in seen:
            yield Problem(f"duplicate {what} id", f"{what} id {given} is there twice")
        else:
            seen.add(given)


def _names(categories: list[Any]) -> Iterator[Problem]:
    """Finds classes without a name, and those of one name: names are shown on one line, where the two cannot be told apart."""
    known: dict[str, Any] = {}
    for category in categories:
        name, given = _get(category, "name"), _get(category, "id")
        if not is_text(name) or not one_line(name):
            yield Problem("category without name", f"category {_short(given)} has no name")
        elif (shown := one_line(name)) in known:
            message = (
                f"category {_short(given)} is called {shown!r} as category {known[shown]} is: two classes of one name"
            )
            yield Problem("two categories of one name", message, fatal=False)
        else:
            known[shown] = given


def _images(images: list[Any]) -> Iterator[Problem]:
    known: dict[str, Any] = {}
    for image in images:
        name, given = _get(image, "file_name"), _short(_get(image, "id"))
        if not is_text(name) or not name:
            yield Problem("image without file", f"image {given} has file_name {_short(name)}")
        elif name in known:
            message = f"image {given} is the file of image {known[name]}, {name!r}: what is annotated in one is background in the other"
            yield Problem("one file of two images", message, fatal=False)
        else:
            known[name] = given
        height, width = _get(image, "height"), _get(image, "width")
        if not _size_of(image):
            message = f"image {given} ({name!r}) has height {_short(height)}, width {_short(width)}; pixels are needed"
            yield Problem("image size", message)
        elif height * width > MOST_PIXELS:
            message = f"image {given} ({name!r}) has {height} x {width} pixels; at most {MOST_PIXELS // 10**6} million are read"
            yield Problem("image size", f"{message}. {TOO_LARGE}")


def _size_of(image: Any) -> bool:
    return all(is_whole(side) and side > 0 for side in (_get(image, "height"), _get(image, "width")))


def _annotation_problems(
    annotation: Any, where: Where, images: set[int], sizes: Sizes, categories: set[int], fates: Fates
) -> Iterator[Problem]:
    who = f"annotation {_short(_get(annotation, 'id'))}"
    image_id, category_id, box = (_get(annotation, key) for key in ("image_id", "category_id", "bbox"))
    if not _is_id(image_id) or image_id not in images:
        yield Problem("unknown image", f"{who} is for image {_short(image_id)}, which is not in images")
        return
    if not _is_id(category_id) or category_id not in categories:
        yield Problem("unknown category", f"{who} has category {_short(category_id)}, which is not in categories")
    who = where(annotation)
    if is_crowd(annotation) is None:
        yield Problem("bad iscrowd", f"{who} has iscrowd {_short(annotation['iscrowd'])}; 0 or 1 is needed")
    area = _get(annotation, "area")
    if area is not None and not (is_number(area) and area >= 0):
        yield Problem("bad area", f"{who} has area {_short(area)}")
    if image_id not in sizes:
        return  # the image's size, which has been told, is needed for what follows
    size = sizes[image_id]
    if fault := box_fault(box, size):
        yield Problem("bad box", f"{who} has bbox {_short(box)}; {fault}")
    else:
        yield from _left_out(annotation, who, size, fates)
    if not has_mask(annotation):
        message = f"{who} has no mask: boxes alone are scored, and Mask R-CNN cannot learn from it"
        yield Problem("no mask", message, fatal=False)
    elif fault := segmentation_fault(annotation["segmentation"], size):
        yield Problem("bad segmentation", f"{who}: {fault}")


def _left_out(annotation: Mapping[str, Any], who: str, size: tuple[int, int], fates: Fates) -> Iterator[Problem]:
    """Counts what becomes of an annotation, and says where it is not learned."""
    becomes = fate(annotation, *size) if is_crowd(annotation) is not None else "crowds"
    fates.add(becomes, in_unit_square=in_unit_square(annotation["bbox"], *size))
    if becomes == "outside their image":
        message = f"{who} has bbox {annotation['bbox']}, nothing of it inside the image; left out"
        yield Problem("degenerate box", message, fatal=False)
    elif becomes == "under a pixel":
        message = f"{who} has bbox {annotation['bbox']}, less than a pixel wide or high; left out"
        yield Problem("box under a pixel", message, fatal=False)
    elif becomes == "learned" and (over := over_the_edge(annotation["bbox"], *size)) > ROUNDING:
        message = (
            f"{who} has bbox {annotation['bbox']}, which reaches {over:g} pixels out of the image of {size[1]} x {size[0]}; learned as "
            "far as it is inside. If many do: x, y, width, height are wanted, not two corners"
        )
        yield Problem("box over the edge", message, fatal=False)


def _short(value: Any) -> str:
    """A value as a message has it; the beginning of a long one."""
    try:
        said = repr(value)
    except ValueError:  # a number of more digits than Python writes
        return "a number of thousands of digits"
    return said if len(said) <= 80 else f"{said[:80]}.."
