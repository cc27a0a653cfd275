"""Predictions over images: what people would rather look at than read, kept with each run."""

import json
import uuid
from collections import defaultdict
from typing import Any

from PIL import Image

from piip import home
from piip.contracts import Dataset
from piip.data import open_dataset
from piip.data.drawing import draw_predictions, side_by_side
from piip.data.images import find_images, read_image
from piip.data.samples import ImageInfo
from piip.data.sources import DataError
from piip.record.journal import Journal
from piip.record.trial import Trial

COUNT = 6


def keep(trial: Trial) -> None:
    """Draw truth and predictions of a few validation images and keep them as the run's artifacts; once."""
    folder = home.journal_dir(trial.key)
    predictions = folder / "predictions.json"
    if not predictions.is_file():  # drawn already, all of them: the last line below
        return
    data = open_dataset(trial.spec.data, trial.sources["val"], trial.spec.model.backbone.input, training=False)
    results = _by_image(json.loads(predictions.read_text()))
    truth = _by_image(json.loads(data.source.annotations.read_text())["annotations"])
    names = {c["id"]: c["name"] for c in data.classes}
    journal = Journal(folder, attempt=f"pictures-{uuid.uuid4()}", running=False)
    # the same images for every trial: the fullest ones, so that trials can be compared by eye
    chosen = sorted(data.infos, key=lambda info: (-len(truth[info.image_id]), info.image_id))[:COUNT]
    for number, info in enumerate(chosen):
        image = _image(data, info)
        if image is None:
            continue
        found = results[info.image_id]
        drawn = [
            draw_predictions(image, truth[info.image_id], names),
            draw_predictions(image, found, names, score_threshold=_threshold(found)),
        ]
        path = folder / f"val_{number}.png"
        side_by_side(*drawn).save(path)
        journal.artifact(path, f"predictions/val_{number}.png")
        path.unlink()
    predictions.unlink(missing_ok=True)  # the artifact is the copy that stays


def _threshold(found: list[dict[str, Any]]) -> float:
    """0.5, or half the surest score where none reaches it: a weak network's guesses are worth a look, scores stand beside them."""
    surest = max((result["score"] for result in found), default=0.5)
    return 0.5 if surest >= 0.5 else surest / 2


def _by_image(entries: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """COCO annotations or results by image id."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        found[entry["image_id"]].append(entry)
    return found


def _image(data: Dataset, info: ImageInfo) -> Image.Image | None:
    """The image as its annotations see it (EXIF rotation, CMYK); None where the spec lets broken ones be skipped."""
    (path,) = find_images(data.source.images, [info.file_name])
    try:
        pixels = read_image(path or data.source.images / info.file_name, (info.height, info.width))
    except DataError:
        if data.broken_images == "refuse":
            raise
        return None
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())
