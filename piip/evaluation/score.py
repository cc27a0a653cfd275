"""What a rebuilt run sees: a split scored, an image file predicted, predictions written."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from piip.contracts import Dataset
from piip.data import open_dataset, open_format
from piip.data.images import read_image
from piip.data.samples import ImageInfo
from piip.data.sources import DataError, Source
from piip.evaluation.rebuild import Rebuilt, source_of
from piip.tracking.store import Store
from piip.training.evaluate import Results, predict, score

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [("image_id", pa.int64()), ("category_id", pa.int64()), ("bbox", pa.list_(pa.float64(), 4)), ("score", pa.float64()),
     ("mask_height", pa.int32()), ("mask_width", pa.int32()), ("mask_rle", pa.string())]
)  # fmt: skip
"""A COCO result as a Parquet row: the mask's RLE in columns."""


@dataclass(frozen=True)
class Scored:
    """A run on a split."""

    metrics: dict[str, float]
    """With the split's name in front, except validation's."""
    logged_before: dict[str, float | None]
    """What the run had logged of each at the checkpoint's step."""
    results: Results


def score_split(
    store: Store, rebuilt: Rebuilt, data: Dataset, split: str, *, progress: Callable[[int, int], None] | None = None
) -> Scored:
    """Predict and score every image of `data`; `progress` hears (done, all)."""
    results = predict(rebuilt.model.to(_device()), data, progress=progress)
    prefix = "" if split == "val" else f"{split}/"
    metrics = {prefix + name: value for name, value in score(data, results).items()}
    return Scored(metrics, {name: _logged_at(store, rebuilt, name) for name in metrics}, results)


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
        rebuilt.spec.data, source, rebuilt.spec.model.backbone.input,
        training=False, max_images=max_images or (int(trained) if trained else None),
    )  # fmt: skip
    _check_classes(source, data.classes, rebuilt.checkpoint.manifest.categories)
    digest = rebuilt.run.tags.get(f"data.{split}.digest")
    if digest and digest != data.digest and max_images is None and not trained:
        log.warning("the files of %r have changed since the training (digest %s, was %s)", split, data.digest, digest)
    return data


def _check_classes(source: Source, given: list[dict[str, Any]], known: list[dict[str, Any]]) -> None:
    if given != known:
        odd = next(c for c in [*given, *known] if c not in known or c not in given)
        raise DataError(
            f"{source.annotations} has {len(given)} categories, the run was trained on {len(known)}; first difference: {odd}"
        )


def write_predictions(results: Results, folder: Path) -> list[Path]:
    """COCO results JSON and the same as Parquet, each complete or not there at all; returns the two files."""
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_parquet = folder / "predictions.json", folder / "predictions.parquet"
    unfinished = [path.with_name(f".{path.name}.tmp") for path in (as_json, as_parquet)]
    unfinished[0].write_text(json.dumps(results))
    pq.write_table(pa.Table.from_pylist([_row(result) for result in results], schema=SCHEMA), unfinished[1])
    unfinished[0].replace(as_json)
    unfinished[1].replace(as_parquet)
    return [as_json, as_parquet]


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    mask = result["segmentation"]
    plain = {name: result[name] for name in ("image_id", "category_id", "bbox", "score")}
    return plain | {"mask_height": mask["size"][0], "mask_width": mask["size"][1], "mask_rle": mask["counts"]}


def predict_file(rebuilt: Rebuilt, path: Path) -> tuple[Image.Image, Results]:
    """An image file upright, as people see it, and COCO results in its pixels (image_id is 0)."""
    spec, image = rebuilt.spec, read_image(path)
    form = open_format(spec.data, spec.model.backbone.input, rebuilt.checkpoint.manifest.categories)
    height, width = image.shape[1:]
    info = ImageInfo(0, path.name, height, width)
    sample = form.prepare(image, info)
    batch = form.collate([sample]).to(_device())
    with torch.inference_mode():
        (prediction,) = rebuilt.model.to(_device())(batch.images, batch.sizes)
    return Image.fromarray(image.permute(1, 2, 0).numpy()), form.to_file(prediction, sample.info)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
