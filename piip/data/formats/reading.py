"""What readers of formats other than COCO's JSON make of files: a COCO-shaped document, and what is wrong, by file and line.

A reader is a function (source, spec) -> `ReadDocument` (see `ReadDataset.reader`). It tells what it cannot make an object of; what all
formats have in common (boxes outside their image, ids, masks) is looked at in the document, once for all (coco_faults.py).
"""

import hashlib
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from piip.data.files import content as content_of_file
from piip.data.files import is_there
from piip.data.formats.coco_faults import find_problems
from piip.data.formats.coco_json import Document
from piip.data.formats.columns import Columns
from piip.data.images import find_images, nearly, upright_sizes
from piip.data.problems import Problem
from piip.data.sources import DataError, Source
from piip.data.text import decoded, is_text


class ReadDocument(Document):
    """A COCO-shaped document that was read from another format."""

    problems: list[Problem]
    """What the reader found wrong, in file order; the document is without it."""
    usual: frozenset[str] = frozenset()
    """Kinds of problems that are this format's nature, and not worth a word: boxes without masks."""

    def __init__(self, content: Mapping[str, Any], files: Sequence[str], at: "array[int]", line: str) -> None:
        super().__init__(content)
        self._files, self._at, self._line = files, at, line

    def where(self, annotation: Mapping[str, Any]) -> str:
        """Its file, and the line or the object there."""
        number = annotation["id"] - 1
        return f"{self._files[self._at[2 * number]]} {self._line} {self._at[2 * number + 1]}"


class Reading:
    """A document in the making.

    Args:
        source: The split's files.
        line: What is counted in a file: `line`, `object`, `row`.
        columns: Whether objects are boxes alone, kept in columns: there may be millions.
        skip: Whether images that cannot be read are left out (else they are refused).
    """

    def __init__(self, source: Source, *, line: str = "line", skip: bool = False, columns: bool = False) -> None:
        self.source, self.skip = source, skip
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] | Columns = Columns() if columns else []
        self.problems: list[Problem] = []
        self._line = line
        self._files: list[str] = []
        self.at = array("L")
        """Of each object the number of its file and of its place there."""
        self._content = hashlib.sha256()

    def bytes_of(self, path: Path, what: str = "annotations") -> bytes:
        """An annotation file; where objects are added from here on."""
        if not is_there(path):
            raise DataError(f"{what} not found: {path}")
        content = content_of_file(path)
        self.begin(path, content)
        return content

    def text_of(self, path: Path, what: str = "annotations") -> str:
        """The text of an annotation file; where objects are added from here on."""
        return decoded(self.bytes_of(path, what), path)

    def begin(self, path: Path, content: bytes = b"") -> None:
        """Objects are added from this file from here on; `content` is in the digest (all of it, or `more` follows)."""
        self._files.append(str(path))
        self.more(len(content).to_bytes(8, "little") + content)

    def more(self, content: bytes) -> None:
        """Bytes of the file that is being read, for the digest."""
        self._content.update(content)

    def fault(self, kind: str, number: int | None, said: str, *, fatal: bool = True) -> None:
        """Something wrong in the file that is being read, at its line or object of this number."""
        where = f"{self._files[-1]}{'' if number is None else f' {self._line} {number}'}"
        self.problems.append(Problem(kind, f"{where}: {said}", fatal=fatal))

    def add_image(self, file_name: str, height: int, width: int, **more: Any) -> int:
        """One more image; returns its id, which counts from 1."""
        image_id = len(self.images) + 1
        self.images.append({"id": image_id, "file_name": file_name, "height": height, "width": width, **more})
        return image_id

    def add(self, number: int, image_id: int, category_id: int, box: Sequence[float], **more: Any) -> None:
        """An object, at this line (or object) of the file that is being read; `box` is x, y, width, height in pixels."""
        self.at.extend((len(self._files) - 1, number))
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": list(box),
                "area": box[2] * box[3],  # as COCO's scorer takes it of boxes
                "iscrowd": 0,
            }
            | more
        )

    def sizes(self, names: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Height and width by name of each of these images, from their headers.

        An image that is not there, or has no header that can be read, is a problem and has no size: it comes into no document. Where
        broken images are skipped, that is forgiven.
        """
        paths = find_images(self.source.images, names)
        there = {name: path for name, path in zip(names, paths, strict=True) if path is not None}
        found: dict[str, tuple[int, int]] = {}
        for name in names:
            if name not in there:
                folder = self.source.images
                self._image_fault("image not found", f"not found: {folder / name}{nearly(folder, name)}")
        for name, size in zip(there, upright_sizes(list(there.values())), strict=True):
            if isinstance(size, DataError):
                self._image_fault("broken image", str(size))
            else:
                found[name] = size
        return found

    def _image_fault(self, kind: str, said: str) -> None:
        self.problems.append(Problem(kind, said, fatal=not self.skip))

    def document(self, categories: Iterable[Mapping[str, Any]], *, usual: Iterable[str] = ()) -> ReadDocument:
        """All that was added."""
        content = {"images": self.images, "annotations": self.annotations, "categories": [dict(c) for c in categories]}
        made = ReadDocument(content, self._files, self.at, self._line)
        made.problems, made.digest = self.problems, self._content.digest()
        masked = not isinstance(self.annotations, Columns) and any("segmentation" in a for a in self.annotations)
        made.usual = frozenset(usual) | (frozenset() if masked else {"no mask"})
        return made


def problems_of(document: ReadDocument) -> Iterator[Problem]:
    """The reader's, and what all formats have in common."""
    yield from document.problems
    for problem in find_problems(document, document.where):
        if problem.kind not in document.usual:
            yield problem


def number(text: Any) -> float | None:
    """A finite number, as files write them; None where it is none."""
    try:
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def labelled(names: Iterable[str]) -> list[dict[str, Any]]:
    """Names in their order as categories, numbered from 1."""
    return [{"id": number, "name": name} for number, name in enumerate(names, start=1)]


def shown(text: object, most: int = 60) -> str:
    """A value as a message has it, cut."""
    said = repr(text) if is_text(text) or not isinstance(text, str) else ascii(text)
    return said if len(said) <= most else f"{said[:most]}.."
