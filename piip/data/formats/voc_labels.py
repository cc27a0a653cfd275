"""What the classes of PASCAL VOC's files are: its own twenty, those of a file of names, or all that are met."""

from collections.abc import Iterable
from typing import Any

from piip.console import one_line
from piip.data.sources import DataError, Source
from piip.data.text import read_text
from piip.spec import VocSpec

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike",
    "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class Labels:
    """Names of classes: those that are known, or all that are met, in order of the alphabet."""

    def __init__(self, known: list[str] | None) -> None:
        self.names = list(known or ())
        self._closed = known is not None
        self._numbers = {name: k for k, name in enumerate(self.names, start=1)}

    def number(self, name: str) -> int | None:
        """From 1; None of one that is not known."""
        if name not in self._numbers and not self._closed:
            self.names.append(name)
            self._numbers[name] = len(self.names)
        return self._numbers.get(name)

    def settled(self, annotations: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The categories; what was met without an order gets one, here and in the annotations."""
        if not self._closed:
            ordered = sorted(self.names)
            places = {self._numbers[name]: k for k, name in enumerate(ordered, start=1)}
            for annotation in annotations:
                annotation["category_id"] = places[annotation["category_id"]]
            self.names = ordered
        return [{"id": k, "name": name} for k, name in enumerate(self.names, start=1)]


def known_names(source: Source, spec: VocSpec) -> list[str] | None:
    """The classes of a file of names, or of VOC itself; None: those of the XML files."""
    if source.names is not None:
        lines = [one_line(line) for line in read_text(source.names, "names").rstrip().splitlines()]
        if not lines or not all(lines):
            raise DataError(f"{source.names}: a name in every line is wanted")
        return lines
    return list(CLASSES) if spec.name in spec.places else None
