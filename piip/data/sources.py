"""Where a data set's files are on this machine. The spec says what the data is, this says where."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from piip.home import data_root, home


class DataError(ValueError):
    """Data that cannot be used; one line that names the file and, where there is one, the offending id."""


@dataclass(frozen=True)
class Source:
    """A COCO-format annotation file and the folder its `file_name`s are relative to."""

    annotations: Path
    images: Path


def locate(name: str, split: str, custom: Mapping[str, Source] | None = None) -> Source:
    """The files of a split.

    Args:
        name: `coco` (COCO 2017 under `data_root()`), `demo` (under `home()`) or `custom`.
        split: `train`, `val`, or a key of `custom`.
        custom: The user's own files by split; used by `custom` alone.

    Raises:
        DataError: The name or split is unknown, or a file is not there.
    """
    match name:
        case "coco":
            root = data_root() / "coco"
            source = Source(root / "annotations" / f"instances_{split}2017.json", root / f"{split}2017")
            advice = "Set PIIP_DATA to the folder that holds coco/."
        case "demo":
            root = home() / "data" / "demo"
            source = Source(root / "annotations" / f"instances_{split}.json", root / split)
            advice = f"Make it: python -m piip.data.demo {root}"
        case "custom":
            if not custom or split not in custom:
                given = ", ".join(sorted(custom)) if custom else "none"
                raise DataError(
                    f"data 'custom' needs an annotation file and an image folder for {split!r}; given: {given}."
                )
            source = custom[split]
            advice = "Give the path of a COCO-format JSON and of its image folder."
        case _:
            raise DataError(f"no data set {name!r}. There is: coco, demo, custom.")
    for path, found in ((source.annotations, source.annotations.is_file()), (source.images, source.images.is_dir())):
        if not found:
            raise DataError(f"{name} data not found: {path}. {advice}")
    return source
