"""Score a run of MLflow on a data split: `python -m piip.eval --run-id ID`."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from piip import home
from piip.data.coco import CocoDataset
from piip.data.sources import DataError, Source
from piip.ops import build
from piip.sweeps.cli import guarded, setup_logging
from piip.tracking.rebuild import Rebuilt, Which, rebuild, source_of
from piip.tracking.store import Store
from piip.training.evaluate import Results, predict, score


@dataclass
class Options:
    """Rebuild a run from MLflow alone, score a split, log the figures under the same run and write its predictions.

    Examples:
        python -m piip.eval --run-id 546c935d...                        # validation, last checkpoint: equals the training's figure
        python -m piip.eval --run-id 546c935d... --checkpoint best
        python -m piip.eval --run-id 546c935d... --split test --annotations my.json --images my_images/
    """

    run_id: str
    """Of a trial; the sweep's table and MLflow's UI show it."""
    split: str = "val"
    """A split other than `val` is logged with its name in front (test/coco/box_ap)."""
    checkpoint: Which = "last"
    annotations: Path | None = None
    """COCO-format JSON to score on instead of the run's own; needs --images and a --split other than val."""
    images: Path | None = None
    max_images: int | None = None
    """Score the first so many only; logged nowhere."""
    out: Path | None = None
    """Folder for predictions.json and predictions.parquet; default: under PIIP_HOME/eval."""
    json: bool = False
    """One JSON document on stdout instead of the table."""


def main(options: Options) -> int:
    """Run the verb."""
    build.load()
    store = Store()
    rebuilt = rebuild(store, options.run_id, options.checkpoint)
    data = open_split(rebuilt, options)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"scoring {options.split}", total=len(data))
        results = predict(
            rebuilt.model, data, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    metrics = score(data, results)
    prefix = "" if options.split == "val" else f"{options.split}/"
    named = {prefix + name: value for name, value in metrics.items()}
    before = {name: logged_at(store, rebuilt, name) for name in named}
    folder = write_predictions(
        results, options.out or home.home() / "eval" / rebuilt.run.run_id / f"{options.split}-{rebuilt.step}"
    )
    if options.max_images is None:
        store.log_metrics(rebuilt.run.run_id, named, rebuilt.step)
        for file in folder.iterdir():
            store.log_artifact(rebuilt.run.run_id, file, f"eval/{options.split}")
    show(options, rebuilt, named, before, folder)
    return 0


def logged_at(store: Store, rebuilt: Rebuilt, name: str) -> float | None:
    """What the run had logged of a metric at the checkpoint's step."""
    return {step: value for step, value, _ in store.history(rebuilt.run.run_id, name)}.get(rebuilt.step)


def open_split(rebuilt: Rebuilt, options: Options) -> CocoDataset:
    """The split's images; its classes must be the ones the weights know.

    Raises:
        DataError: They are not, or one of two paths is missing.
    """
    given: dict[str, Source] = {}
    if (options.annotations is None) != (options.images is None):
        raise DataError("--annotations and --images go together: a JSON and the folder its images are in")
    if options.annotations and options.images:
        if options.split == "val":
            raise DataError("your own files need a --split name of their own (val is the run's): e.g. --split test")
        given[options.split] = Source(options.annotations.absolute(), options.images.absolute())
    source = source_of(rebuilt, options.split, given)
    data = CocoDataset(
        source,
        rebuilt.spec.data,
        rebuilt.spec.model.backbone.resolution,
        training=False,
        max_images=_limit(rebuilt, options),
    )
    known = rebuilt.checkpoint.manifest.categories
    if data.categories != known:
        raise DataError(
            f"{source.annotations} has categories {data.categories[:3]}..., the run was trained on {known[:3]}..."
        )
    digest = rebuilt.run.tags.get(f"data.{options.split}.digest")
    if digest and digest != data.digest and options.max_images is None:
        print(
            f"warning: the files of {options.split!r} have changed since the training (digest {data.digest}, was {digest})",
            file=sys.stderr,
        )
    return data


def _limit(rebuilt: Rebuilt, options: Options) -> int | None:
    """The training's own limit on validation images holds for the same split, so that the numbers can be compared."""
    trained = rebuilt.run.tags.get("piip.max_eval_images")
    return options.max_images or (int(trained) if trained and options.split == "val" else None)


def write_predictions(results: Results, folder: Path) -> Path:
    """COCO results JSON, and the same as Parquet; complete or not there at all."""
    folder.mkdir(parents=True, exist_ok=True)
    as_json = folder / ".predictions.json.tmp"
    as_json.write_text(json.dumps(results))
    as_json.replace(folder / "predictions.json")
    rows = [_row(result) for result in results]
    schema = pa.schema(
        [("image_id", pa.int64()), ("category_id", pa.int64()), ("bbox", pa.list_(pa.float64(), 4)), ("score", pa.float64()),
         ("mask_height", pa.int32()), ("mask_width", pa.int32()), ("mask_rle", pa.string())]
    )  # fmt: skip
    as_parquet = folder / ".predictions.parquet.tmp"
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), as_parquet)
    as_parquet.replace(folder / "predictions.parquet")
    return folder


def _row(result: dict[str, Any]) -> dict[str, Any]:
    """A COCO result as a Parquet row; the mask's RLE in columns."""
    mask = result["segmentation"]
    plain = {name: result[name] for name in ("image_id", "category_id", "bbox", "score")}
    return plain | {"mask_height": mask["size"][0], "mask_width": mask["size"][1], "mask_rle": mask["counts"]}


def show(
    options: Options, rebuilt: Rebuilt, metrics: Mapping[str, float], before: Mapping[str, float | None], folder: Path
) -> None:
    """The figures beside what the run had logged at this step and what the paper prints."""
    paper = rebuilt.spec.paper.model_dump() if rebuilt.spec.paper else {}
    if options.json:
        document: dict[str, Any] = {
            "run_id": rebuilt.run.run_id, "name": rebuilt.run.name, "split": options.split, "step": rebuilt.step,
            "metrics": metrics, "logged_before": before, "predictions": str(folder),
        }  # fmt: skip
        print(json.dumps(document))
        return
    table = Table(title=f"{rebuilt.run.name}, {options.split}, step {rebuilt.step}")
    for column in ("metric", "now", "logged before", "difference", "paper"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, value in metrics.items():
        old, printed = before[name], paper.get(name.rsplit("/", 1)[1])
        table.add_row(
            name, f"{value:.4f}", "-" if old is None else f"{old:.4f}", "-" if old is None else f"{value - old:.1e}",
            "-" if printed is None else f"{printed:g}",
        )  # fmt: skip
    Console(width=max(100, Console().width)).print(table)
    print(f"predictions: {folder}")


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    options = tyro.cli(Options, args=arguments)
    setup_logging()
    return guarded(lambda: main(options))


if __name__ == "__main__":
    sys.exit(cli())
