"""Write detection data of any format as COCO JSON: one file, for whatever else reads that.

    python -m piip.data.convert labels/train images/train --kind yolo -o train.json
    python -m piip.data.convert data.yaml --kind yolo --split val -o val.json

Objects that are not learned (VOC's difficult ones, groups, ignored regions) become crowds (iscrowd 1), which is what training and scoring
make of them here. What more a format says of an object stays beside it. Trained on, the file gives the targets of the data themselves.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import AfterValidator

from piip.console import run_verb
from piip.data.files import is_folder
from piip.data.layouts import given_source
from piip.data.locating import check_form
from piip.data.sources import DataError
from piip.options import GivenPath, NewFile, SplitName, UsageError, given_file
from piip.scratch import scratch
from piip.spec.data import Kind, kinds_called, named_kind

PARTS = ("images", "annotations", "categories")


@dataclass
class Options:
    """What `python -m piip.data.convert` is told."""

    annotations: Annotated[tyro.conf.Positional[GivenPath], tyro.conf.arg(metavar="ANNOTATIONS")]
    """The file or the folder of annotations; without IMAGES: data.yaml, or the folder of a data set laid out as its download."""
    out: Annotated[NewFile, tyro.conf.arg(aliases=["-o"])]
    """The JSON file to write; names of images in it are paths below IMAGES."""
    images: Annotated[tyro.conf.Positional[GivenPath | None], tyro.conf.arg(metavar="IMAGES")] = None
    """The folder of the images."""
    kind: Kind = "coco"
    """What they are: any kind of detection data."""
    names: Annotated[Path, AfterValidator(given_file)] | None = None
    """The file that names the classes, where annotations do not."""
    split: SplitName | None = None
    """Of one path that holds several: train, val, test or trainval; not given: train."""
    overwrite: bool = False
    """Write over a file that is there."""
    json: bool = False
    """One JSON document on stdout instead of lines."""


def convert(document: Mapping[str, Any], out: Path) -> None:
    """Write a COCO-shaped document; a reader sees all of the file or nothing of it.

    Args:
        document: Free of faults.
        out: Its folder is made.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with scratch(out.parent, ".convert_") as folder:
        with (folder / out.name).open("w", encoding="utf-8") as file:
            file.writelines(_pieces(document))
        (folder / out.name).replace(out)


def _pieces(document: Mapping[str, Any]) -> Iterator[str]:
    """The document's JSON, entry by entry: as one string it would take the memory once more."""
    yield "{"
    for number, part in enumerate(PARTS):
        yield f"{', ' if number else ''}{json.dumps(part)}: ["
        first, rest = document[part][:1], (document[part][k] for k in range(1, len(document[part])))
        yield from chain(map(json.dumps, first), (f",\n{json.dumps(entry)}" for entry in rest))
        yield "]"
    yield "}\n"


def main(options: Options) -> int:
    """Run the verb."""
    if options.out.exists() and not options.overwrite:
        raise UsageError(f"--out {options.out} is there already; --overwrite writes over it")
    data = named_kind(kinds_called(options.kind)[0], "custom")
    source = given_source(options.annotations, options.images, options.names, options.split, data)
    check_form(source.annotations, data, what="annotations")
    check_form(source.images, data, what="images")
    if not is_folder(source.images):
        raise DataError(f"image folder not found: {source.images}")
    from piip.data.documents import read_document

    document = read_document(data, source)
    convert(document, options.out)
    counts = {part: len(document[part]) for part in PARTS}
    if options.json:
        print(json.dumps({"out": str(options.out), "images_folder": str(source.images), **counts}))
    else:
        print(
            f"{options.out}: {', '.join(f'{count} {part}' for part, count in counts.items())}; its images: {source.images}"
        )
    return 0


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(Options, main, prog="python -m piip.data.convert", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(cli())
