"""piip.predict: pictures and results of any image file."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from piip import predict
from piip.data.demo.shapes import SHAPES
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
        found = [{key: value for key, value in row.items() if key != "name"} for row in said.document[str(photo)]]
        assert found == [r | {"image_id": 0} for r in then if r["image_id"] == image_id]
        assert {row["name"] for row in said.document[str(photo)]} <= set(SHAPES)
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

        assert error == "error: IMAGE nothere.jpg: no such file or folder"

    def test_a_folder_stands_for_its_images(self, trained, say, photo, tmp_path):
        folder = tmp_path / "photos"
        folder.mkdir()
        for name in ("b.png", "a.JPG", "notes.txt", "._a.jpg"):
            (folder / name).write_bytes(photo.read_bytes())

        said = say(predict.cli, folder, photo, "--run-id", trained.run_id, "-o", tmp_path / "drawn", "--json")

        assert said.code == 0, said.err
        assert list(said.document) == [str(folder / "a.JPG"), str(folder / "b.png"), str(photo)]

    def test_a_folder_without_images_is_named(self, say, tmp_path):
        (tmp_path / "notes.txt").write_text("x")

        assert (
            f"no images in the folder {tmp_path}" in say(predict.cli, tmp_path, "--run-id", "any", "-o", tmp_path).error
        )

    def test_broken_images_lose_nobody_elses_predictions(self, trained, say, photo, tmp_path):
        broken, text, good = tmp_path / "broken.jpg", tmp_path / "text.png", tmp_path / "good.jpg"
        broken.write_bytes(photo.read_bytes()[:900])
        text.write_text("hello")
        good.write_bytes(photo.read_bytes())

        said = say(
            predict.cli, photo, broken, text, good, "--run-id", trained.run_id, "-o", tmp_path / "drawn", "--json"
        )

        assert said.code == 1
        assert list(said.document) == [str(photo), str(good)]
        assert said.document[str(photo)] == said.document[str(good)]
        assert json.loads((tmp_path / "drawn" / "predictions.json").read_text()) == said.document
        assert (tmp_path / "drawn" / "004_good.png").is_file()
        (error,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
        assert "2 of 4 images cannot be used" in error
        assert f"{broken}: cannot be decoded" in error
        assert f"{text}: not an image" in error

    def test_what_was_done_before_an_interruption_is_kept(self, trained, say, photo, tmp_path, monkeypatch):
        real = predict.predicted

        def until_the_second(rebuilt, path, target, threshold):
            if target.name.startswith("002"):
                raise KeyboardInterrupt
            return real(rebuilt, path, target, threshold)

        monkeypatch.setattr(predict, "predicted", until_the_second)
        again = tmp_path / "again.jpg"
        again.write_bytes(photo.read_bytes())

        assert say(predict.cli, photo, again, "--run-id", trained.run_id, "-o", tmp_path / "drawn").code == 130
        assert list(json.loads((tmp_path / "drawn" / "predictions.json").read_text())) == [str(photo)]

    def test_no_images_at_all(self, say, tmp_path):
        assert "no images given" in say(predict.cli, "--run-id", "any", "-o", tmp_path).error

    def test_a_text_file_is_no_image(self, trained, say, tmp_path):
        text = tmp_path / "text.jpg"
        text.write_text("hello")

        assert (
            f"{text}: not an image (5 bytes)"
            in say(predict.cli, text, "--run-id", trained.run_id, "-o", tmp_path).error
        )
