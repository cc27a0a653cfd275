"""Find what is wrong in data before anything trains on it: contradictions in annotations, images that cannot be decoded.

    python -m piip.data.check JSON IMAGES                                          detection, COCO-format
    python -m piip.data.check MAPS IMAGES --kind segmentation --names classes.txt  label maps
    python -m piip.data.check FOLDER --kind classification                         a folder of images for each class
    python -m piip.data.check data.yaml --kind yolo --split val                    YOLO; the other kinds alike: see --kind

Of data laid out as its download one path is enough: that of data.yaml, or of the folder that holds all. `--row NAME` says besides
how large objects are as a row's network sees them, in pixels and in patches of each branch; `--sheet FILE.jpg` draws some images.

Prints each kind of problem with its count and first examples, then what training will see of the split, what is left out
and why, and what scoring will count. Exits with 1 if training or evaluation would refuse the data, a split that teaches
nothing too; what loading copes with is listed and forgiven. A flipped bit inside a JPEG decodes without complaint and
is not found.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import AfterValidator, Field

from piip.catalogue.rows import find_row
from piip.console import run_verb
from piip.data import packed
from piip.data.check_words import as_json, as_text
from piip.data.decoding import OWN_NAMES
from piip.data.files import exists, is_folder
from piip.data.layouts import given_source
from piip.data.locating import check_form
from piip.data.problems import Looked, Problem, Report, Seen
from piip.data.sources import DataError, Source
from piip.options import GivenPath, NewFile, SplitName, UsageError, given_file
from piip.spec import Ade20kSpec, CocoSpec, Data, DetectionSpec, ExperimentSpec, ImageNetSpec
from piip.spec.data import Kind, kinds_called, named_kind, of_kind, words_for


def check(
    annotations: Path, images: Path, *, data: Data = CocoSpec(name="custom"), names: Path | None = None,  # noqa: B008 (frozen)
    more: tuple[Path, ...] = (), row: ExperimentSpec | None = None, progress: bool = False,
) -> Report:  # fmt: skip
    """Looks at everything.

    Args:
        annotations: A file or a folder, as `data` has it.
        images: The folder of images.
        data: What the files are.
        names: The file that names the classes, where annotations do not.
        more: Further annotations of the split, where it has several files or folders of them.
        row: Object sizes are told as its network sees them.
        progress: Says how far it is on stderr.

    Raises:
        DataError: Something is missing, or not of this kind of data, so that nothing can be listed.
        UsageError: A file where a folder is wanted, or a folder where a file is.
    """
    check_form(annotations, data, what="annotations")
    check_form(images, data, what="images")
    if not is_folder(images):
        raise DataError(f"image folder not found: {images}")
    if not exists(annotations) and not next(iter(data.places.values())).one_file:
        raise DataError(f"folder not found: {annotations}")
    source = Source(annotations, images, names, more)
    if damaged := _damaged(source):
        return damaged
    looked = _look_at(source, data)
    report = Report(looked.images, looked.annotations, looked.categories, looked.seen)
    for number, problems in enumerate(looked.problems):
        for problem in problems:
            report.add(problem)
        if progress and number and number % 500 == 0:
            print(f"{number} of {report.images} images", file=sys.stderr)
    if not report.usable:
        report.seen = Seen()
    elif row is not None:
        report.asks = _asked(source, data, row)
    return report


def _damaged(source: Source) -> Report | None:
    """Shards of packed folders that are not as they were written; None where all are: no file in them need be looked at otherwise."""
    paths = dict.fromkeys(
        path for path in (source.annotations, *source.more, source.images, source.names) if path is not None
    )
    report = Report(0, 0, 0, Seen())
    for pack in packed.packs_of(paths):
        for error in pack.damages():
            report.add(Problem("damaged shard", str(error)))
    return None if report.usable else report


def _asked(source: Source, data: Data, row: ExperimentSpec) -> list[str]:
    """A line for each branch of the row's network, and one on what its training cuts away."""
    from piip.data import open_dataset
    from piip.data.cut_away import cut_away
    from piip.data.demands import demands
    from piip.data.documents import read_document
    from piip.data.formats.coco import CocoDataset

    if not isinstance(data, DetectionSpec):
        raise UsageError(f"--row {row.name}: sizes of objects are told of detection data, not of {words_for(data)}")
    told = [demand.words for demand in demands(read_document(data, source), row)]
    prepared = of_kind(row.data, data.kind).model_copy(
        update={"name": data.name}
    )  # as training on the row would see them
    split = open_dataset(prepared, source, replace(row.model.input, masks=False, keypoints=0), training=True)
    return [*told, cut_away(split).words] if isinstance(split, CocoDataset) else told


def _look_at(source: Source, data: Data) -> Looked:
    match data:
        case CocoSpec():
            from piip.data.formats import coco_check

            return coco_check.look_at(source)
        case DetectionSpec():
            from piip.data.formats import detected_check

            return detected_check.look_at(source, data)
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


def _names(path: Path) -> Path:
    return path if str(path) == OWN_NAMES else given_file(path)


@dataclass
class Options:
    """What `python -m piip.data.check` is told."""

    annotations: Annotated[tyro.conf.Positional[GivenPath], tyro.conf.arg(metavar="ANNOTATIONS")]
    """A COCO-format JSON file, the folder of label maps, that of class folders; what the kind of data has.
    Without IMAGES: YOLO's data.yaml, or the folder that holds a data set laid out as its download."""
    images: Annotated[tyro.conf.Positional[GivenPath | None], tyro.conf.arg(metavar="IMAGES")] = None
    """The folder of the images; class folders are their own."""
    kind: Kind = "coco"
    """The kind of data, or the task: detection is coco, segmentation is ade20k, classification is imagenet."""
    split: SplitName | None = None
    """Of one path that holds several: train, val, test or trainval; not given: train."""
    row: str | None = None
    """A row whose network's view of the objects is told: how large they are, in pixels and patches of each branch."""
    sheet: NewFile | None = None
    """A picture (.jpg, .png) to draw some images with their annotations on, where the data are good."""
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
    row = find_row(options.row) if options.row else None
    source = given_source(options.annotations, options.images, options.names, options.split, data)
    report = check(
        source.annotations, source.images, data=data, names=source.names, more=source.more, row=row, progress=True
    )
    if options.sheet is not None and report.usable:
        from piip.data.sheet import save_sheet

        count = save_sheet(data, source, options.sheet.expanduser())
        print(f"{count} images drawn: {options.sheet}", file=sys.stderr)
    print(as_json(report) if options.json else as_text(report))
    return 0 if report.usable else 1


def _spec(options: Options) -> Data:
    kind = kinds_called(options.kind)[0]
    match kind:
        case "ade20k":
            name = OWN_NAMES if str(options.names) == OWN_NAMES else "custom"
            zero, ignored = options.reduce_zero_label, options.ignore_value
            return Ade20kSpec(name=name, reduce_zero_label=zero, ignore_value=ignored)
        case "imagenet":
            return ImageNetSpec(name="custom")
        case _:
            return named_kind(kind, "custom")


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(Options, main, prog="python -m piip.data.check", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(cli())
