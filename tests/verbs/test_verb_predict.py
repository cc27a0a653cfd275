"""piip.predict: pictures and results of any image file."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from piip import predict
from piip.tracking.store import Store


class TestPredict:
    @pytest.fixture
    def photo(self, trained) -> Path:
        return sorted((trained.demo / "val").glob("*.jpg"))[0]

    def test_pictures_and_results_go_to_the_folder(self, trained, say, photo, tmp_path):
        said = say(predict.cli, photo, "--run-id", trained.run_id, "-o", tmp_path / "drawn", "--json")

        assert said.code == 0, said.err
        assert list(said.document) == [str(photo)]
        assert json.loads((tmp_path / "drawn" / "predictions.json").read_text()) == said.document
        # the same network on the same image: what the evaluation in training predicted
        image_id = next(
            i["id"]
            for i in json.loads((trained.demo / "annotations/instances_val.json").read_text())["images"]
            if i["file_name"] == photo.name
        )
        then = pq.read_table(Store().download(trained.run_id, "predictions/val.parquet"))
        then = then.drop_columns(["file_name"]).to_pylist()
        assert said.document[str(photo)] == [r | {"image_id": 0} for r in then if r["image_id"] == image_id]
        objects = len(said.document[str(photo)])
        assert (
            f"{tmp_path}/drawn/001_{photo.stem}.png: 0 objects of {objects} candidates; the highest score is 0."
            in said.err
        )
        with Image.open(tmp_path / "drawn" / f"001_{photo.stem}.png") as drawn, Image.open(photo) as original:
            assert drawn.width % original.width == 0  # small images are enlarged by a whole factor

    def test_a_rotated_photograph_has_its_boxes_in_the_upright_picture(self, trained, say, photo, tmp_path):
        upright, turned = tmp_path / "upright.png", tmp_path / "turned.png"
        with Image.open(photo) as image:
            image.crop((0, 0, 96, 72)).save(upright)
            rotated = image.crop((0, 0, 96, 72)).transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # "turn me 90 degrees clockwise"
        rotated.save(turned, exif=exif)

        said = say(predict.cli, upright, turned, "--run-id", trained.run_id, "-o", tmp_path / "drawn", "--json")

        assert said.document[str(turned)] == said.document[str(upright)]
        drawn = [np.asarray(Image.open(tmp_path / "drawn" / name)) for name in ("001_upright.png", "002_turned.png")]
        np.testing.assert_array_equal(*drawn)

    def test_grey_and_cmyk_files_are_images_too(self, trained, say, photo, tmp_path):
        with Image.open(photo) as image:
            image.convert("L").save(tmp_path / "grey.png")
            image.convert("CMYK").save(tmp_path / "cmyk.jpg")

        files = (tmp_path / "grey.png", tmp_path / "cmyk.jpg")
        assert say(predict.cli, *files, "--run-id", trained.run_id, "-o", tmp_path / "drawn").code == 0

    def test_a_missing_image_is_named_before_anything_is_loaded(self, say, tmp_path):
        error = say(predict.cli, "nothere.jpg", "--run-id", "any", "-o", tmp_path).error

        assert error == "error: no such image: nothere.jpg"

    def test_no_images_at_all(self, say, tmp_path):
        assert "no images given" in say(predict.cli, "--run-id", "any", "-o", tmp_path).error

    def test_a_text_file_is_no_image(self, trained, say, tmp_path):
        text = tmp_path / "text.jpg"
        text.write_text("hello")

        assert (
            f"{text}: not an image (5 bytes)"
            in say(predict.cli, text, "--run-id", trained.run_id, "-o", tmp_path).error
        )
