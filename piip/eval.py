"""Score a run on a data split: rebuilt from MLflow alone, figures logged under the same run, predictions written.

Scores the last checkpoint, or the best one; on the validation split the figure equals the one logged in training.
Prints a table with both, and writes predictions as JSON (COCO's results, of a detector) and as Parquet. With --workers the images
are shared out over a Ray cluster ($RAY_ADDRESS, else one on this machine); the figures are the same whatever their number.

Examples:
  python -m piip.eval --run-id 546c935d8a7f4c1e9d20
  python -m piip.eval --run-id 546c935d8a7f4c1e9d20 --checkpoint best --json
  python -m piip.eval --run-id 546c935d8a7f4c1e9d20 --views flip --views slices=640
  python -m piip.eval --run-id 546c935d8a7f4c1e9d20 --workers 8 --gpus-per-worker 1
  python -m piip.eval --run-id 546c935d8a7f4c1e9d20 --split test --annotations my.json --images my_images/
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from pydantic import Field
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from piip import home
from piip.catalogue.overrides import ViewWord, seen_in
from piip.console import run_verb
from piip.data.scorable import refuse_unscored
from piip.data.sources import DataError, Source
from piip.options import Count, GivenFolder, GivenPath, OutFolder, RunId, SplitName, UsageError
from piip.spec import Data
from piip.spec.views import ViewsSpec

if TYPE_CHECKING:
    from piip.contracts import Dataset
    from piip.evaluation.rebuild import Rebuilt
    from piip.evaluation.score import Scored
    from piip.training.evaluate import Evaluation

SHOWN = 20
"""Classes that a table of them shows."""


@dataclass
class Options:
    """What `python -m piip.eval` is told."""

    run_id: RunId
    """The run to score, by its id or the first digits of it; the sweep's table and MLflow's UI show ids."""
    split: SplitName = "val"
    """val, or a name of yours for your own files: their figures are logged with it in front (test/...)."""
    checkpoint: Literal["last", "best"] = "last"
    """last: the newest. best: that of the best validation score so far."""
    annotations: GivenPath | None = None
    """The truth to score on instead of the run's own: a COCO-format JSON, the folder of label maps.
    Needs --images, and a --split other than val."""
    images: GivenFolder | None = None
    """The folder its images are in; class folders are named by this alone."""
    views: tyro.conf.UseAppendAction[tuple[ViewWord, ...]] = ()
    """Of a detector: see each image in several views and merge what is found, e.g. --views flip --views slices=640; also scales=0.8,1,1.2,
    overlap=0.2, whole=false, merge=nms|soft_nms|nmm, threshold=0.5. These figures are logged under a name of their own."""
    max_images: Count | None = None
    """Score only the first so many images; these figures are logged nowhere."""
    workers: Count | None = None
    """Ray workers that share the images; not given: this process, without Ray."""
    cpus_per_worker: Count = 1
    """With --workers: CPU threads of each."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0
    """With --workers: 1 gives each a GPU."""
    out: OutFolder | None = None
    """Folder for predictions.json and predictions.parquet; not given: under PIIP_HOME/eval."""
    lines: bool = False
    """COCO's numbers also in the lines that pycocotools prints: twelve of boxes and of masks, ten of keypoints."""
    json: bool = False
    """One JSON document on stdout instead of the table."""


def main(options: Options) -> int:
    """Run the verb."""
    own = options.annotations or options.images
    if own and options.split == "val":
        raise UsageError("--split val: that is the run's own; your files need a name of their own: e.g. --split test")
    from piip.tracking.store import Store

    store = Store()
    run_id = store.find_run(options.run_id).run_id
    given = given_source(options, store.load_spec(run_id).data) if own else {}
    # PyTorch from here on: a wrong id does not wait for it
    from piip.evaluation.rebuild import rebuild
    from piip.evaluation.score import compared, digest_of, digest_tag, open_split, with_names, write_predictions

    rebuilt = rebuild(store, run_id, options.checkpoint)
    rebuilt = replace(rebuilt, spec=seen_in(rebuilt.spec, options.views))
    data = open_split(rebuilt, options.split, given, max_images=options.max_images)
    if options.max_images:
        refuse_unscored(data, rebuilt.spec.scores[0], "--max-images")
    found = evaluated(options, rebuilt, data)
    if not found.metrics:
        raise DataError(f"nothing to score in the {len(data)} images of {options.split!r} that were looked at")
    digest = digest_of(rebuilt, data) if options.max_images is None else None
    scored = compared(store, rebuilt, name_of(options.split, options.views), found.metrics, digest)
    folder = options.out or home.home() / "eval" / run_id / f"{scored.name}-{rebuilt.step}"
    assert found.table is not None
    files = write_predictions(with_names(found.table, data.classes), found.classes, folder)
    if digest is not None:
        store.log_batch(run_id, [], {digest_tag(scored.name): digest})
        store.log_metrics(run_id, scored.metrics, rebuilt.step)
        for file in files:
            store.log_artifact(run_id, file, f"eval/{scored.name}")
    show(options, rebuilt, scored, found.classes, folder)
    return 0


def evaluated(options: Options, rebuilt: "Rebuilt", data: "Dataset") -> "Evaluation":
    """The numbers and the results, from this process or from workers."""
    from piip.evaluation.score import device
    from piip.training.evaluate import evaluate

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"scoring {options.split}", total=len(data))

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if options.workers is None:
            return evaluate(rebuilt.model.to(device()), data, progress=progress)
        from piip.sweeps.resources import Resources
        from piip.sweeps.scoring import evaluate_on_ray

        resources = Resources(options.workers, options.cpus_per_worker, options.gpus_per_worker)
        return evaluate_on_ray(rebuilt.spec, rebuilt.checkpoint, data, resources, progress=progress)


def name_of(split: str, views: Sequence[str]) -> str:
    """What a split's figures are logged under: its name, with the views that were asked for."""
    return f"{split}-{ViewsSpec.of_words(views).label}" if views else split


def given_source(options: Options, data: Data) -> Mapping[str, Source]:
    """The user's own files, under their split; class folders are named once, by --images.

    Raises:
        UsageError: One of two paths is missing.
    """
    annotations, images = options.annotations, options.images
    if not next(iter(data.places.values())).apart:
        annotations, images = annotations or images, images or annotations
    if annotations is None or images is None:
        raise UsageError("--annotations and --images go together: the truth and the folder its images are in")
    return {options.split: Source(annotations.absolute(), images.absolute())}


def show(
    options: Options, rebuilt: "Rebuilt", scored: "Scored", classes: Sequence[Mapping[str, Any]], folder: Path
) -> None:
    """The figures beside what the run had logged at this step and what the paper prints."""
    if options.json:
        document = {
            "run_id": rebuilt.run.run_id, "name": rebuilt.run.name, "split": options.split, "logged_as": scored.name,
            "step": rebuilt.step,
            "metrics": scored.metrics, "logged_before": scored.logged_before, "per_class": list(classes),
            "predictions": str(folder),
        }  # fmt: skip
        print(json.dumps(document))
        return
    paper = rebuilt.spec.paper.model_dump() if rebuilt.spec.paper else {}
    table = Table(title=f"{rebuilt.run.name}, {scored.name}, step {rebuilt.step}")
    for column in ("metric", "now", "logged before", "difference", "paper"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, value in scored.metrics.items():
        old, printed = scored.logged_before[name], paper.get(name.rsplit("/", 1)[1])
        table.add_row(
            name, f"{value:.4f}", "-" if old is None else f"{old:.4f}", "-" if old is None else f"{value - old:.1e}",
            "-" if printed is None else f"{printed:g}",
        )  # fmt: skip
    Console(width=max(100, Console().width)).print(table)
    if classes:
        show_classes(classes)
    if options.lines:
        from piip.metrics.printed import lines_of

        prefix = "" if scored.name == "val" else f"{scored.name}/"
        print("\n".join(lines_of(scored.metrics, prefix) or ["--lines: no figure of these is COCO's"]))
    print(f"predictions: {folder}")


def show_classes(classes: Sequence[Mapping[str, Any]]) -> None:
    """The numbers of every class, or of the weakest where they are many."""
    names = list(dict.fromkeys(name for row in classes for name in row if name not in ("id", "name")))
    scored = sorted((row for row in classes if names[0] in row), key=lambda row: row[names[0]])
    shown, what = (classes, "by class") if len(classes) <= SHOWN else (scored[:SHOWN], f"the weakest {SHOWN} classes")
    more = f" of {len(classes)}, all in per_class.json" if len(classes) > SHOWN else ""
    table = Table()
    for column in ("class", *names):
        table.add_column(column, justify="left" if column == "class" else "right")
    for row in shown:
        table.add_row(escape(row["name"]), *(f"{row[name]:.4g}" if name in row else "-" for name in names))
    print(f"{what}{more}:")
    Console(width=max(100, Console().width)).print(table)


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(Options, main, prog="python -m piip.eval", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(cli())
