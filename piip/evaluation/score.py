"""What a rebuilt run sees: a split opened and scored, an image file predicted, predictions written."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from piip.console import one_line
from piip.contracts import Dataset, Format
from piip.data import open_dataset, open_format
from piip.data.images import read_image
from piip.data.samples import ImageInfo
from piip.data.sources import DataError, Source
from piip.durable import write_atomic
from piip.evaluation.rebuild import Rebuilt, source_of
from piip.scratch import scratch
from piip.tracking.store import Store
from piip.training.evaluate import predicted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """A run on a split."""

    name: str
    """What the figures are logged under: the split's, with the first digits of the data's digest where the name has other data's."""
    metrics: dict[str, float]
    """Metric -> number, as logged: those of other splits than validation have the name above in front."""
    logged_before: dict[str, float | None]
    """What the run had logged of each at the checkpoint's step."""


def compared(store: Store, rebuilt: Rebuilt, split: str, metrics: Mapping[str, float], digest: str | None) -> Scored:
    """An evaluation's numbers under the names they are logged by, beside those that were logged before.

    A name's figures are all of the same data: those of other labels, or other images, get a name of their own.

    Args:
        store: Where the run is known.
        rebuilt: The run.
        split: That was scored.
        metrics: Of it.
        digest: Of its data; None of a part of them, whose figures are logged nowhere.
    """
    known = rebuilt.run.tags.get(digest_tag(split))
    logged = [name for name in rebuilt.run.metrics if split != "val" and name.startswith(f"{split}/")]
    other = digest is not None and (known != digest if known else bool(logged))
    name = f"{split}-{digest[:8]}" if other and digest else split
    if other:
        was = f"digest {known}" if known else "of data that nobody noted"
        log.warning(
            "the figures of %r that are logged are of other data (%s, now %s): these are logged as %s/..",
            split,
            was,
            digest,
            name,
        )
    prefix = "" if name == "val" else f"{name}/"
    named = {prefix + metric: value for metric, value in metrics.items()}
    return Scored(name, named, {metric: _logged_at(store, rebuilt, metric) for metric in named})


def digest_tag(split: str) -> str:
    """The tag that says which data a split's figures are of."""
    return f"data.{split}.digest"


def _logged_at(store: Store, rebuilt: Rebuilt, name: str) -> float | None:
    return {step: value for step, value, _ in store.history(rebuilt.run.run_id, name)}.get(rebuilt.step)


def open_split(rebuilt: Rebuilt, split: str, given: Mapping[str, Source], *, max_images: int | None = None) -> Dataset:
    """The split's images.

    Args:
        rebuilt: The run.
        split: `val` is the run's own; its limit on validation images holds too, so that numbers can be compared.
        given: The user's own files by split.
        max_images: The first so many only.

    Raises:
        DataError: No such split, or its classes are not the ones the weights know.
    """
    source = source_of(rebuilt, split, given)
    trained = rebuilt.run.tags.get("piip.max_eval_images") if split == "val" else None
    data = open_dataset(
        rebuilt.spec.data, source, rebuilt.spec.model.input,
        training=False, max_images=max_images or (int(trained) if trained else None),
    )  # fmt: skip
    _check_classes(source, data.classes, rebuilt.checkpoint.manifest.categories)
    return data


def digest_of(rebuilt: Rebuilt, data: Dataset) -> str:
    """Gives the digest of a split's whole data, also where a run scores its first images only."""
    if "piip.max_eval_images" not in rebuilt.run.tags:
        return data.digest
    return open_dataset(rebuilt.spec.data, data.source, rebuilt.spec.model.input).digest


def _check_classes(source: Source, given: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]]) -> None:
    """By name, in order of label; the files' numbers are the files' own matter."""
    here, there = ([one_line(category["name"]) for category in classes] for classes in (given, known))
    if here == there:
        return
    at = next((i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), min(len(here), len(there)))
    ours, theirs = (repr(names[at]) if at < len(names) else "missing" for names in (here, there))
    raise DataError(
        f"{source.annotations} has {len(here)} classes, the run was trained on {len(there)}; first difference: class {at + 1} is {ours}, "
        f"the run's is {theirs}"
    )


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Results as JSON takes them: COCO's result entries, say. What a row has nothing for is left out."""
    return [{key: value for key, value in row.items() if value is not None} for row in table.to_pylist()]


def with_names(table: pa.Table, classes: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Results of any kind of data with what the class of each row is called, beside its number.

    Args:
        table: Rows of results.
        classes: {"id": the files' number, "name"} of all classes.
    """
    if "name" in table.column_names or "category_id" not in table.column_names:
        return table
    known = {category["id"]: category["name"] for category in classes}
    names = [known.get(number) for number in table["category_id"].to_pylist()]
    return table.add_column(table.column_names.index("category_id") + 1, "name", pa.array(names, pa.string()))


def write_predictions(table: pa.Table, classes: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Results as JSON and as Parquet, and the numbers of every class where there are some.

    Returns:
        The files: each is there complete or not at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_parquet, per_class = (
        folder / name for name in ("predictions.json", "predictions.parquet", "per_class.json")
    )
    write_atomic(as_json, json.dumps(rows_of(table)))
    # under a name that nobody else has: neither another evaluation nor who owns the folder
    with scratch(folder, ".writing-") as own:
        pq.write_table(table, own / as_parquet.name)
        (own / as_parquet.name).replace(as_parquet)
    if not classes:
        return [as_json, as_parquet]
    write_atomic(per_class, json.dumps(list(classes), indent=1))
    return [as_json, as_parquet, per_class]


def format_of(rebuilt: Rebuilt) -> Format:
    """How the run's kind of data goes in and out, with the classes its weights know."""
    return open_format(rebuilt.spec.data, rebuilt.spec.model.input, rebuilt.checkpoint.manifest.categories)


def predict_file(rebuilt: Rebuilt, form: Format, path: Path) -> tuple[Image.Image, ImageInfo, Any]:
    """An image file upright, as people see it, and what the run says of it in its pixels (image_id is 0)."""
    image = read_image(path)
    height, width = image.shape[1:]
    sample = form.prepare(image, ImageInfo(0, path.name, height, width))
    with torch.inference_mode():
        ((prediction, info),) = predicted(rebuilt.model.to(device()), form.collate([sample]), form, device())
    return Image.fromarray(image.permute(1, 2, 0).numpy()), info, form.to_file(prediction, info)


def device() -> torch.device:
    """Where networks are evaluated on this machine."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
