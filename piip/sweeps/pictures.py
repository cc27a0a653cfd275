"""Predictions over images: what people would rather look at than read, kept with each run."""

import json
import uuid

from PIL import Image

from piip import home
from piip.data.coco import CocoDataset
from piip.reports.draw import draw_predictions, side_by_side
from piip.training.journal import Journal
from piip.training.trial import Trial

COUNT = 6


def keep(trial: Trial) -> None:
    """Draw truth and predictions of a few validation images and keep them as the run's artifacts; once."""
    folder = home.journal_dir(trial.key)
    predictions = folder / "predictions.json"
    if not predictions.is_file() or (folder / "artifacts" / "predictions" / "val_0.png").exists():
        return
    data = CocoDataset(trial.sources["val"], trial.spec.data, trial.spec.model.backbone.resolution, training=False)
    results = json.loads(predictions.read_text())
    truth = json.loads(data.source.annotations.read_text())["annotations"]
    names = {c["id"]: c["name"] for c in data.categories}
    journal = Journal(folder, attempt=f"pictures-{uuid.uuid4()}", running=False)
    # the same images for every trial: the fullest ones, so that trials can be compared by eye
    counts = {info.image_id: sum(a["image_id"] == info.image_id for a in truth) for info in data.infos}
    chosen = sorted(data.infos, key=lambda info: (-counts[info.image_id], info.image_id))[:COUNT]
    for number, info in enumerate(chosen):
        with Image.open(data.source.images / info.file_name) as image:
            pair = side_by_side(
                draw_predictions(image, [a for a in truth if a["image_id"] == info.image_id], names),
                draw_predictions(image, [r for r in results if r["image_id"] == info.image_id], names),
            )
        path = folder / f"val_{number}.png"
        pair.save(path)
        journal.artifact(path, f"predictions/val_{number}.png")
        path.unlink()
    if predictions.exists():
        predictions.unlink()  # the artifact is the copy that stays
