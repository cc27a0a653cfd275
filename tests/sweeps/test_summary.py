import json
import shlex
from pathlib import Path

from tiny import ROWS

from piip import home
from piip.sweeps.summary import _surest
from piip.training.trial import Trial


def test_the_next_command_shows_the_image_of_the_surest_prediction(tiny_coco, monkeypatch):
    monkeypatch.chdir(tiny_coco.images.parent)
    trial = Trial(ROWS["pico"][0], "key", {"val": tiny_coco})
    assert _surest(trial) == "YOUR_IMAGE.jpg"

    predictions = home.journal_dir("key") / "artifacts" / "predictions" / "val.json"
    predictions.parent.mkdir(parents=True)
    predictions.write_text(json.dumps([{"image_id": 10, "score": 0.05}, {"image_id": 16, "score": 0.1}]))

    image, flag, threshold = shlex.split(_surest(trial))
    assert (image, flag) == ("images/000000000016.jpg", "--score-threshold")
    assert Path(image).is_file()
    assert 0.05 < float(threshold) < 0.1
