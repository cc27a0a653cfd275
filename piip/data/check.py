"""Checks data of any kind: every contradiction in the annotations, every image decoded.

    python -m piip.data.check ANNOTATIONS IMAGES [--json]                     COCO-format JSON
    python -m piip.data.check LABEL_MAPS IMAGES --kind ade20k [--names FILE]
    python -m piip.data.check FOLDER --kind imagenet                          a folder of images for each class

Prints each kind of problem with its count and first examples. Exits with 1 if training or evaluation would refuse the
data; boxes that are merely left out are listed and forgiven. A flipped bit inside a JPEG decodes without complaint and
is not found.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from piip.console import run_verb
from piip.contracts import Input
from piip.data.formats.coco_faults import Problem, find_problems
from piip.data.formats.coco_json import Document, read
from piip.data.sources import DataError, Source
from piip.spec import Ade20kSpec, ImageNetSpec

if TYPE_CHECKING:
    from piip.contracts import Dataset

EXAMPLES = 3
SECONDS_BETWEEN_LINES = 5.0


@dataclass
class Report:
    """What was looked at and what was found."""

    images: int
    annotations: int
    categories: int
    problems: dict[str, list[Problem]] = field(default_factory=dict)
    """By kind."""

    @property
    def usable(self) -> bool:
        """Whether no problem is fatal."""
        return not any(problem.fatal for found in self.problems.values() for problem in found)

    def add(self, problem: Problem) -> None:
        """Files a problem under its kind."""
        self.problems.setdefault(problem.kind, []).append(problem)


def check(annotations: Path, images: Path, *, progress: bool = False) -> Report:
    """Looks at everything; `progress` says how far it is on stderr.

    Raises:
        DataError: The annotation file is missing, not JSON or not COCO-format, so that nothing can be listed.
    """
    if not images.is_dir():
        raise DataError(f"image folder not found: {images}")
    document = read(annotations)
    report = Report(len(document["images"]), len(document["annotations"]), len(document["categories"]))
    for problem in find_problems(document):
        report.add(problem)
    for number, problem in enumerate(_image_files(document, images), start=1):
        if problem:
            report.add(problem)
        if progress and number % 500 == 0:
            print(f"{number} of {report.images} images", file=sys.stderr)
    return report


def check_opened(dataset: "Dataset", *, progress: bool = False) -> Report:
    """Decodes every image of a split that could be opened."""
    report = Report(len(dataset), len(dataset), len(dataset.classes))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, error in enumerate(pool.map(dataset.image_error, range(len(dataset))), start=1):
            if error:
                report.add(Problem("broken image", str(error)))
            if progress and number % 500 == 0:
                print(f"{number} of {report.images} images", file=sys.stderr)
    return report


def refuse_broken(dataset: "Dataset", stamps: Path) -> None:
    """Decode every image of a split before anything is trained on it; once, for `stamps` remembers what was good.

    Args:
        dataset: The split.
        stamps: A folder of empty files, named by the digests of splits that were good.

    Raises:
        DataError: Images that cannot be decoded or are not of the annotated size: how many, and the first one's reason.
    """
    if (stamps / dataset.digest).exists():
        return
    total, said = len(dataset), time.monotonic()
    broken: list[DataError] = []
    began = said
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, error in enumerate(pool.map(dataset.image_error, range(total)), start=1):
            broken += [error] if error else []
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                rate = done / (said - began)
                print(
                    f"decoding {dataset.source.images}: {done} of {total} images, {rate:.0f} images/s, ETA {(total - done) / rate:.0f} s",
                    file=sys.stderr,
                )
    if broken:
        raise DataError(
            f"{len(broken)} of {total} images cannot be used, first {broken[0]}. "
            f"All: python -m piip.data.check {dataset.source.annotations} {dataset.source.images}. "
            "To leave them out: --set data.broken_images=skip"
        )
    stamps.mkdir(parents=True, exist_ok=True)
    (stamps / dataset.digest).touch()


def _image_files(document: Document, folder: Path) -> Iterator[Problem | None]:
    """Decodes every image: None where it is good."""
    from piip.data.images import find_images  # with PyTorch: neither --help nor a wrong path waits for it

    images = [
        image for image in document["images"] if isinstance(image, dict) and isinstance(image.get("file_name"), str)
    ]
    for image, path in zip(images, find_images(folder, (i["file_name"] for i in images)), strict=True):
        yield _image_problem(image, path, folder)


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


def _as_text(report: Report) -> str:
    lines = [f"{report.images} images, {report.annotations} annotations, {report.categories} categories"]
    for kind, found in report.problems.items():
        lines.append(f"{len(found)} x {kind}" + ("" if found[0].fatal else " (forgiven)"))
        lines += [f"    {problem.message}" for problem in found[:EXAMPLES]]
        if len(found) > EXAMPLES:
            lines.append(f"    and {len(found) - EXAMPLES} more")
    lines.append("good" if report.usable else "not usable as it is")
    return "\n".join(lines)


def _as_json(report: Report) -> str:
    problems = {
        kind: {"count": len(found), "fatal": found[0].fatal, "examples": [p.message for p in found[:EXAMPLES]]}
        for kind, found in report.problems.items()
    }
    counts = {"images": report.images, "annotations": report.annotations, "categories": report.categories}
    return json.dumps({"usable": report.usable, **counts, "problems": problems})


@dataclass
class Options:
    """What `python -m piip.data.check` is told."""

    annotations: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ANNOTATIONS")]
    """A COCO-format JSON file; the folder of label maps; the folder of class folders."""
    images: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="IMAGES")] = None
    """The folder its file names are relative to; class folders are their own."""
    kind: Literal["coco", "ade20k", "imagenet"] = "coco"
    """Of the data: detection, segmentation, classification."""
    names: Path | None = None
    """Of ade20k: the file that names the classes, a line each."""
    json: bool = False
    """Print one JSON document."""


def checked(options: Options) -> Report:
    """What was found in data of the kind."""
    if options.images is None and options.kind != "imagenet":
        raise DataError(f"data of kind {options.kind} need the folder of their images, too: check ANNOTATIONS IMAGES")
    if options.kind == "coco":
        return check(options.annotations, options.images or options.annotations, progress=True)
    # PyTorch from here on: neither --help nor a missing argument waits for it
    from piip.data import open_dataset

    spec = Ade20kSpec(name="custom") if options.kind == "ade20k" else ImageNetSpec(name="custom")
    source = Source(options.annotations, options.images or options.annotations, options.names)
    for folder in (source.annotations, source.images):
        if not folder.is_dir():
            raise DataError(f"folder not found: {folder}")
    any_network = Input(resolution=32, mean=(0, 0, 0), std=(1, 1, 1))
    return check_opened(open_dataset(spec, source, any_network, training=True), progress=True)


def main(options: Options) -> int:
    """Run the verb."""
    report = checked(options)
    print(_as_json(report) if options.json else _as_text(report))
    return 0 if report.usable else 1


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(Options, main, prog="python -m piip.data.check", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(cli())
