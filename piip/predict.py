"""Draw what a run sees in your images: boxes and masks, maps or classes, with names and scores.

The pictures and predictions.json (the results of every image; COCO's entries, of a detector) go to a folder. Pictures come out upright
where the camera noted a rotation; boxes and masks are in their pixels.

Examples:
  python -m piip.predict --run-id 546c935d8a7f4c1e9d20 photo.jpg more/*.png -o drawn/
  python -m piip.predict --run-id 546c935d8a7f4c1e9d20 photo.jpg -o drawn/ --score-threshold 0.3 --json
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from piip.console import run_verb


@dataclass
class Options:
    """What `python -m piip.predict` is told."""

    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
    """Image files of any kind."""
    run_id: str
    """The run that looks at them, by its id or the first digits of it; the sweep's table and MLflow's UI show ids."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for the pictures and predictions.json."""
    checkpoint: Literal["last", "best"] = "last"
    """last: the newest. best: that of the best validation score so far."""
    score_threshold: float = 0.5
    """Only predictions at least this sure are drawn; predictions.json has them all."""
    json: bool = False
    """One JSON document on stdout: file -> predictions."""


def main(options: Options) -> int:
    """Run the verb."""
    if not options.images:
        raise ValueError("no images given: name one or more image files before the flags")
    missing = [str(path) for path in options.images if not path.is_file()]
    if missing:
        raise ValueError(f"no such image: {', '.join(missing)}")
    from piip.tracking.store import Store

    store = Store()
    run_id = store.find_run(options.run_id).run_id
    # PyTorch from here on: a wrong id does not wait for it
    from piip.evaluation.rebuild import rebuild
    from piip.evaluation.score import format_of, predict_file, rows_of

    rebuilt = rebuild(store, run_id, options.checkpoint)
    form = format_of(rebuilt)
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {}
    for number, path in enumerate(options.images, start=1):
        image, info, result = predict_file(rebuilt, form, path)
        found[str(path)] = rows_of(form.to_table([(info, result)]).drop_columns(["file_name"]))
        target = options.out / f"{number:03d}_{path.stem}.png"
        form.draw(image, result, score_threshold=options.score_threshold).save(target)
        said = form.describe(result, score_threshold=options.score_threshold)
        print(f"{path} -> {target}: {said}", file=sys.stderr)
    (options.out / "predictions.json").write_text(json.dumps(found))
    if options.json:
        print(json.dumps(found))
    return 0


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(Options, main, prog="python -m piip.predict", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(cli())
