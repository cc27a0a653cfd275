"""Predictions over images: what people would rather look at than read, kept with each run."""

import uuid

import pyarrow.parquet as pq

from piip import home
from piip.data import open_dataset
from piip.data.drawing import side_by_side
from piip.data.sheet import picture_of
from piip.record.journal import Journal
from piip.record.trial import Trial

COUNT = 6


def keep(trial: Trial) -> None:
    """Draw truth and predictions of a few of the validation images that were scored and keep them as the run's artifacts; once."""
    folder = home.journal_dir(trial.key)
    predictions = folder / "predictions.parquet"
    if not predictions.is_file():  # drawn already, all of them: the last line below
        return
    data = open_dataset(
        trial.spec.data, trial.sources["val"], trial.spec.model.input, training=False, max_images=trial.max_eval_images
    )
    table = pq.read_table(predictions)
    journal = Journal(folder, attempt=f"pictures-{uuid.uuid4()}", running=False)
    for number, index in enumerate(data.examples(COUNT)):
        info = data.infos[index]
        image = picture_of(data, info)
        if image is None:
            continue
        truth = data.draw(image, data.truth(index))
        # a weak network's guesses are worth a look, too
        found = data.draw(image, data.from_table(table, info), score_threshold=None)
        path = folder / f"val_{number}.png"
        side_by_side(truth, found).save(path)
        journal.artifact(path, f"predictions/val_{number}.png")
        path.unlink()
    predictions.unlink(missing_ok=True)  # the artifact is the copy that stays
