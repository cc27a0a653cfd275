"""What Open Images says of classes and of whole images: names, the hierarchy of classes, labels that people verified."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from piip.console import one_line
from piip.data.files import is_there, stream
from piip.data.formats.reading import Reading, shown
from piip.data.sources import DataError, Source
from piip.data.text import read_text

NAMES = "class-descriptions-boxable.csv"
HIERARCHY = "bbox_labels_600_hierarchy.json"
VERIFIED = "{}-annotations-human-imagelabels-boxable.csv"


def names_of(source: Source) -> list[dict[str, Any]]:
    """{"id", "name", "mid"} of the file of names, or of that beside the boxes; `parents` where the hierarchy lies beside it.

    Raises:
        DataError: There is none, or it has not two columns.
    """
    file = source.names or source.annotations.parent / NAMES
    if not is_there(file):
        raise DataError(f"which classes are there? Give the CSV of names, {NAMES} ({file} is not there): --names FILE")
    rows = [row for _, row in _parsed(file, read_text(file, "names").splitlines()) if row]
    odd = next((k for k, row in enumerate(rows, start=1) if len(row) != 2 or not all(map(one_line, row))), None)
    if odd or not rows:
        raise DataError(
            f"{file}: line {odd or 1} is {shown(rows[odd - 1] if odd else '')}; wanted: two columns, /m/011k07,Tortoise"
        )
    if len({row[0] for row in rows}) < len(rows):
        raise DataError(f"{file}: a class is there twice; each once is wanted")
    categories = [{"id": k, "name": one_line(name), "mid": mid} for k, (mid, name) in enumerate(rows, start=1)]
    hierarchy = file.parent / HIERARCHY
    return _with_parents(categories, hierarchy) if is_there(hierarchy) else categories


def _with_parents(categories: list[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """Categories with the ids of those directly above; the root, Entity, is no class."""
    try:
        tree = json.loads(read_text(file, "hierarchy"))
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, DataError) else DataError(f"{file}: not complete JSON ({error})") from None
    numbers = {category["mid"]: category["id"] for category in categories}
    parents: dict[int, set[int]] = {}
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        below = node.get("Subcategory", []) if isinstance(node, dict) else None
        if not isinstance(below, list) or not all(
            isinstance(child, dict) and isinstance(child.get("LabelName"), str) for child in below
        ):
            raise DataError(f"{file}: {shown(node)} has no list Subcategory of objects with LabelName")
        above = node.get("LabelName")
        for child in below:
            if isinstance(above, str) and above in numbers and child["LabelName"] in numbers:
                parents.setdefault(numbers[child["LabelName"]], set()).add(numbers[above])
        waiting += below
    return [category | {"parents": sorted(parents.get(category["id"], ()))} for category in categories]


def note_verified(reading: Reading, ids: dict[str, int], numbers: dict[str, int]) -> None:
    """Adds to images which classes people verified to be there, or not to be: of the file beside the boxes, where there is one."""
    split = reading.source.annotations.name.partition("-annotations")[0]
    file = reading.source.annotations.parent / VERIFIED.format(split)
    if not is_there(file):
        return
    reading.bytes_of(file)
    for place, row in rows_of(file, ("ImageID", "LabelName", "Confidence")):
        image_id, number = ids.get(row["ImageID"]), numbers.get(row["LabelName"])
        if row["Confidence"] not in ("0", "1", "0.0", "1.0"):
            reading.fault(
                "bad label of image", place, f"Confidence is {shown(row['Confidence'])}; 1 (it is there) or 0 is wanted"
            )
        elif image_id and number:
            image = reading.images[image_id - 1]
            image.setdefault(
                "pos_category_ids" if row["Confidence"].startswith("1") else "neg_category_ids", []
            ).append(number)


def rows_of(file: Path, wanted: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and columns of each row, read as it is asked for.

    Raises:
        DataError: No such file, no CSV, or without a column that is wanted.
    """
    if not is_there(file):
        raise DataError(f"annotations not found: {file}")
    with io.TextIOWrapper(stream(file), encoding="utf-8-sig", newline="") as text:
        rows = _parsed(file, text)
        _, heading = next(rows, (0, []))
        if missing := [name for name in wanted if name not in heading]:
            raise DataError(f"{file}: no column {', '.join(missing)}; it has {shown(', '.join(heading))}")
        for place, row in rows:
            if row:
                yield place, dict.fromkeys(heading, "") | dict(zip(heading, row, strict=False))


def _parsed(file: Path, text: Any) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text)
    try:
        for row in reader:
            yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{file}: line {reader.line_num + 1} is no CSV in UTF-8 ({error})") from None
