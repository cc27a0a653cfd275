"""Draw what a run sees in your images: boxes and masks, maps or classes, with names and scores.

The pictures and predictions.json (the results of every image; COCO's entries, of a detector) go to a folder. Pictures come out upright
where the camera noted a rotation; boxes and masks are in their pixels. An image that cannot be used is named at the end, and the
exit code is 1; the others are done.

Examples:
  python -m piip.predict --run-id 546c935d8a7f4c1e9d20 photo.jpg more/*.png -o drawn/
  python -m piip.predict --run-id 546c935d8a7f4c1e9d20 photos/ -o drawn/ --score-threshold 0.3 --json
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from piip.catalogue.overrides import ViewWord, seen_in
from piip.console import run_verb
from piip.data.files import is_seen
from piip.data.sources import DataError
from piip.durable import write_atomic
from piip.options import GivenPath, OutFolder, RunId, Share, UsageError

if TYPE_CHECKING:
    from piip.evaluation.rebuild import Rebuilt

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
"""Endings of what is taken for an image in a folder."""


@dataclass
class Options:
    """What `python -m piip.predict` is told."""

    images: Annotated[tyro.conf.Positional[tuple[GivenPath, ...]], tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
    """Image files of any kind, or folders of them."""
    run_id: RunId
    """The run that looks at them, by its id or the first digits of it; the sweep's table and MLflow's UI show ids."""
    out: Annotated[OutFolder, tyro.conf.arg(aliases=["-o"])]
    """Folder for the pictures and predictions.json."""
    checkpoint: Literal["last", "best"] = "last"
    """last: the newest. best: that of the best validation score so far."""
    score_threshold: Share = 0.5
    """Only predictions at least this sure are drawn; predictions.json has them all."""
    views: tyro.conf.UseAppendAction[tuple[ViewWord, ...]] = ()
    """Of a detector: see each image in several views, as `piip eval` has them, e.g. --views slices=640."""
    json: bool = False
    """One JSON document on stdout: file -> predictions."""


def main(options: Options) -> int:
    """Run the verb."""
    images = images_of(options.images)
    from piip.tracking.store import Store

    store = Store()
    run_id = store.find_run(options.run_id).run_id
    # PyTorch from here on: a wrong id does not wait for it
    from piip.evaluation.rebuild import rebuild

    rebuilt = rebuild(store, run_id, options.checkpoint)
    rebuilt = replace(rebuilt, spec=seen_in(rebuilt.spec, options.views))
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {}
    broken: list[DataError] = []
    try:
        for number, path in enumerate(images, start=1):
            target = options.out / f"{number:03d}_{path.stem}.png"
            try:
                found[str(path)] = predicted(rebuilt, path, target, options.score_threshold)
            except DataError as error:  # its neighbours are not to blame
                broken.append(error)
    finally:  # whatever ends the work: what was done is kept
        write_atomic(options.out / "predictions.json", json.dumps(found))
    if options.json and found:
        print(json.dumps(found))
    if broken:
        raise DataError(
            f"{len(broken)} of {len(images)} images cannot be used: {'; '.join(map(str, broken))}. The others are in {options.out}"
        )
    return 0


def images_of(given: Sequence[Path]) -> list[Path]:
    """The image files that were named, of folders those in them, by name.

    Raises:
        ValueError: Nothing was named, or a folder is without images.
    """
    if not given:
        raise UsageError("no images given: name one or more image files, or a folder, before the flags")
    images: list[Path] = []
    for path in given:
        inside = (
            sorted(file for file in path.iterdir() if is_seen(file.name) and file.suffix.lower() in SUFFIXES)
            if path.is_dir()
            else [path]
        )
        if not inside:
            raise ValueError(f"no images in the folder {path}: no file there ends in {', '.join(SUFFIXES)}")
        images += inside
    return images


def predicted(rebuilt: "Rebuilt", path: Path, target: Path, score_threshold: float) -> list[dict[str, Any]]:
    """What a run sees in an image file, as rows; the picture goes to `target`.

    Raises:
        DataError: The file cannot be used.
    """
    from piip.evaluation.score import format_of, predict_file, rows_of, with_names

    form = format_of(rebuilt)
    image, info, result = predict_file(rebuilt, form, path)
    form.draw(image, result, score_threshold=score_threshold).save(target)
    said = form.describe(result, score_threshold=score_threshold)
    print(f"{path} -> {target}: {said}", file=sys.stderr)
    return rows_of(with_names(form.to_table([(info, result)]).drop_columns(["file_name"]), form.classes))


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(Options, main, prog="python -m piip.predict", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(cli())
