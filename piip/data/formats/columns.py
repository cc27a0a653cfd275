"""Millions of boxes in columns: a list of COCO's annotations that takes 50 bytes for each instead of 700."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

FLAGS = ("iscrowd", "is_group_of")


class Columns(Sequence[dict[str, Any]]):
    """Annotations with ids from 1 in their order, a box, its area and `FLAGS`, and nothing else; an entry is made when it is asked for."""

    def __init__(self) -> None:
        self._images, self._categories = array("q"), array("q")
        self._boxes = array("d")
        self._flags = array("b")

    def append(self, entry: Mapping[str, Any]) -> None:
        """One more, as `Reading.add` makes it."""
        self._images.append(entry["image_id"])
        self._categories.append(entry["category_id"])
        self._boxes.extend(entry["bbox"])
        self._flags.extend(entry[flag] for flag in FLAGS)

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        numbers = range(len(self))[index]
        return [self._entry(number) for number in numbers] if isinstance(numbers, range) else self._entry(numbers)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self._entry, range(len(self)))

    def _entry(self, number: int) -> dict[str, Any]:
        box = self._boxes[4 * number : 4 * number + 4].tolist()
        return {
            "id": number + 1,
            "image_id": self._images[number],
            "category_id": self._categories[number],
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": self._flags[2 * number],
            "is_group_of": self._flags[2 * number + 1],
        }
