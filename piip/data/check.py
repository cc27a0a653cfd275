"""Find what is wrong in data before anything trains on it: contradictions in annotations, images that cannot be decoded.

    python -m piip.data.check JSON IMAGES                                          detection, COCO-format
    python -m piip.data.check MAPS IMAGES --kind segmentation --names classes.txt  label maps
    python -m piip.data.check FOLDER --kind classification                         a folder of images for each class

Prints each kind of problem with its count and first examples, then what training will see of the split, what is left out
and why, and what scoring will count. Exits with 1 if training or evaluation would refuse the data, a split that teaches
nothing too; what loading copes with is listed and forgiven. A flipped bit inside a JPEG decodes without complaint and
is not found.
"""

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from pydantic import AfterValidator, Field

from piip.console import one_line, run_verb
from piip.data.problems import Looked, Problem, Report, Seen
from piip.data.sources import DataError, Source, check_form
from piip.options import GivenPath, UsageError, given_file
from piip.spec import Ade20kSpec, CocoSpec, Data, ImageNetSpec
from piip.spec.data import kinds_called, words_for

if TYPE_CHECKING:
    from piip.contracts import Dataset

EXAMPLES = 3
SECONDS_BETWEEN_LINES = 5.0
OWN_NAMES = "ade20k"
"""Instead of a file of names: the data set whose classes are known without one."""


def check(
    annotations: Path, images: Path, *, data: Data = CocoSpec(name="custom"), names: Path | None = None,  # noqa: B008 (frozen)
    progress: bool = False,
) -> Report:  # fmt: skip
    """Looks at everything; `progress` says how far it is on stderr.

    Raises:
        DataError: Something is missing, or not of this kind of data, so that nothing can be listed.
        UsageError: A file where a folder is wanted, or a folder where a file is.
    """
    check_form(annotations, data, what="annotations")
    check_form(images, data, what="images")
    if not images.is_dir():
        raise DataError(f"image folder not found: {images}")
    if not isinstance(data, CocoSpec) and not annotations.is_dir():
        raise DataError(f"folder not found: {annotations}")
    looked = _look_at(Source(annotations, images, names), data)
    report = Report(looked.images, looked.annotations, looked.categories, looked.seen)
    for number, problems in enumerate(looked.problems):
        for problem in problems:
            report.add(problem)
        if progress and number and number % 500 == 0:
            print(f"{number} of {report.images} images", file=sys.stderr)
    if not report.usable:
        report.seen = Seen()
    return report


def _look_at(source: Source, data: Data) -> Looked:
    match data:
        case CocoSpec():
            from piip.data.formats import coco_check

            return coco_check.look_at(source)
        case Ade20kSpec():
            from piip.data.formats import ade20k_check

            return ade20k_check.look_at(source, data)
        case ImageNetSpec():
            from piip.data.formats import folders_check

            return folders_check.look_at(source, data)
        case _:  # nothing to contradict: the images are all there is
            from piip.contracts import Input
            from piip.data import open_dataset

            split = open_dataset(data, source, Input(224, (0, 0, 0), (1, 1, 1)))
            errors = (split.image_error(index) for index in range(len(split)))
            problems = ([Problem("broken image", str(error))] if error else [] for error in errors)
            return Looked(len(split), len(split), len(split.classes), problems, Seen({"images": len(split)}))


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
            f"To leave them out: --set data.broken_images=skip. To see all: {command_of(dataset.source, dataset.spec)}"
        )
    stamps.mkdir(parents=True, exist_ok=True)
    (stamps / dataset.digest).touch()


def command_of(source: Source, data: Data) -> str:
    """What to type to see all that is wrong in a split, whatever its kind of data."""
    words = [str(source.annotations)]
    words += [str(source.images)] if source.images != source.annotations else []
    words += ["--kind", data.kind] if data.kind != "coco" else []
    if isinstance(data, Ade20kSpec):
        names = OWN_NAMES if data.name == OWN_NAMES else source.names
        words += ["--names", str(names)] if names else []
        words += [] if data.reduce_zero_label else ["--no-reduce-zero-label"]
        words += ["--ignore-value", str(data.ignore_value)] if data.ignore_value != Options.ignore_value else []
    return shlex.join(["python", "-m", "piip.data.check", *words])


def _as_text(report: Report) -> str:
    lines = [f"{report.images} images, {report.annotations} annotations, {report.categories} categories"]
    for kind, found in report.problems.items():
        lines.append(f"{len(found)} x {kind}" + ("" if found[0].fatal else " (forgiven)"))
        lines += [f"    {one_line(problem.message)}" for problem in found[:EXAMPLES]]
        if len(found) > EXAMPLES:
            lines.append(f"    and {len(found) - EXAMPLES} more")
    for what, counts in (("training sees", report.seen.training), ("scoring counts", report.seen.scoring)):
        if counts:
            lines.append(f"{what}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    lines.append("good" if report.usable else "not usable as it is")
    return "\n".join(lines)


def _as_json(report: Report) -> str:
    problems = {
        kind: {"count": len(found), "fatal": found[0].fatal, "examples": [p.message for p in found[:EXAMPLES]]}
        for kind, found in report.problems.items()
    }
    counts = {"images": report.images, "annotations": report.annotations, "categories": report.categories}
    seen = {"training": report.seen.training, "scoring": report.seen.scoring}
    return json.dumps({"usable": report.usable, **counts, **seen, "problems": problems})


def _names(path: Path) -> Path:
    return path if str(path) == OWN_NAMES else given_file(path)


@dataclass
class Options:
    """What `python -m piip.data.check` is told."""

    annotations: Annotated[tyro.conf.Positional[GivenPath], tyro.conf.arg(metavar="ANNOTATIONS")]
    """A COCO-format JSON file, the folder of label maps, or that of class folders."""
    images: Annotated[tyro.conf.Positional[GivenPath | None], tyro.conf.arg(metavar="IMAGES")] = None
    """The folder of the images; class folders are their own."""
    kind: Literal["detection", "segmentation", "classification", "coco", "ade20k", "imagenet"] = "coco"
    """The task, or the kind of data by name: detection is coco, segmentation is ade20k, classification is imagenet."""
    names: Annotated[Path, AfterValidator(_names)] | None = None
    """Segmentation: the file that names the classes, a line each, the first one of number 0; the word ade20k: that data set's own 150.
    Not given: classes.txt beside the maps."""
    reduce_zero_label: bool = True
    """Segmentation: classes count from 0 in the maps; else 0 is no class (data.reduce_zero_label=false)."""
    ignore_value: Annotated[int, Field(ge=0, le=65535)] = 255
    """Segmentation: the number of pixels that are neither learned nor scored."""
    json: bool = False
    """One JSON document on stdout instead of lines."""


def main(options: Options) -> int:
    """Run the verb."""
    data = _spec(options)
    if options.images is None and next(iter(data.places.values())).apart:
        raise UsageError(f"data for {words_for(data)} need the folder of their images, too: check ANNOTATIONS IMAGES")
    images = options.images or options.annotations
    report = check(options.annotations, images, data=data, names=options.names, progress=True)
    print(_as_json(report) if options.json else _as_text(report))
    return 0 if report.usable else 1


def _spec(options: Options) -> Data:
    (kind,) = kinds_called(options.kind)
    match kind:
        case "ade20k":
            name = OWN_NAMES if str(options.names) == OWN_NAMES else "custom"
            zero, ignored = options.reduce_zero_label, options.ignore_value
            return Ade20kSpec(name=name, reduce_zero_label=zero, ignore_value=ignored)
        case "imagenet":
            return ImageNetSpec(name="custom")
        case _:
            return CocoSpec(name="custom")


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(Options, main, prog="python -m piip.data.check", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(cli())
