import json

import pyarrow.parquet as pq
import pytest
from PIL import Image

from piip.data.formats import coco_results
from piip.data.sources import DataError
from piip.evaluation import pictures
from piip.presets import mask_rcnn_pico, pico
from piip.record.runs import RunRecord, create_run
from piip.record.trial import Trial

RED, BLUE = (220, 30, 30), (30, 30, 220)


@pytest.fixture
def trial(coco_folder) -> Trial:
    """A trial over an image stored on its side: upright, 60 wide and 90 high, its upper third is red."""
    upright = Image.new("RGB", (60, 90), BLUE)
    upright.paste(RED, (0, 0, 60, 30))
    image_id = coco_folder.add_image(60, 90, "turned.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me 90 degrees clockwise"
    upright.transpose(Image.Transpose.ROTATE_90).save(coco_folder.images / "turned.png", exif=exif)
    coco_folder.add_object(image_id, (0, 0, 60, 30))
    source = coco_folder.write()
    folder = create_run(RunRecord("key", "name", "tests", None))
    pq.write_table(coco_results.to_table([]), folder / "predictions.parquet")
    spec = mask_rcnn_pico(pico("B", (128,)), steps=1)
    return Trial(spec, "key", {"val": source, "train": source})


def test_a_photograph_stored_on_its_side_is_drawn_as_annotated(trial, piip_home):
    pictures.keep(trial)

    with Image.open(piip_home / "journals/key/artifacts/predictions/val_0.png") as pair:
        # upright images side by side are wider than high only by the second one: 2 x 60 against 90
        assert 1.2 < pair.width / pair.height < 1.4
        seen = pair.convert("RGB").crop((pair.width // 2, 0, pair.width, pair.height))
        assert seen.getpixel((seen.width // 2, seen.height // 5)) == pytest.approx(RED, abs=12)
        assert seen.getpixel((seen.width // 2, seen.height * 3 // 4)) == pytest.approx(BLUE, abs=12)


def test_pictures_are_drawn_once(trial, piip_home):
    pictures.keep(trial)
    pictures.keep(trial)

    events = (piip_home / "journals/key/events.jsonl").read_text().splitlines()
    assert [e["name"] for e in map(json.loads, events) if e["kind"] == "artifact"] == ["predictions/val_0.png"]


def test_a_broken_image_is_left_out_where_the_spec_skips_it(trial):
    path = trial.sources["val"].images / "turned.png"
    path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(DataError, match=r"turned\.png: cannot be decoded"):
        pictures.keep(trial)
    pictures.keep(Trial(trial.spec.override({"data.broken_images": "skip"}), "key", trial.sources))


def test_only_images_that_were_scored_are_drawn(coco_folder, monkeypatch):
    few, many = (coco_folder.add_image(60, 40, f"{name}.png") for name in ("few", "many"))
    for image_id, objects in ((few, 1), (many, 3)):
        for _ in range(objects):
            coco_folder.add_object(image_id, (0, 0, 20, 20))
    drawn = []
    monkeypatch.setattr(pictures, "picture_of", lambda data, info: drawn.append(info.file_name))
    source = coco_folder.write()
    folder = create_run(RunRecord("limited", "name", "tests", None))
    spec = mask_rcnn_pico(pico("B", (128,)), steps=1)

    for limit in (1, None):
        drawn.clear()
        pq.write_table(coco_results.to_table([]), folder / "predictions.parquet")
        pictures.keep(Trial(spec, "limited", {"val": source}, limit))
        assert drawn == (["few.png"] if limit else ["many.png", "few.png"])
