import json

import numpy as np
import pytest
from label_maps import MapFolder, stripes
from PIL import Image

from piip.contracts import Input
from piip.data import open_dataset
from piip.data.check import check, cli
from piip.data.decoding import refuse_broken
from piip.data.sources import DataError
from piip.spec import Ade20kSpec, ImageNetSpec

SPEC = Ade20kSpec(name="custom")


@pytest.fixture
def folder(tmp_path) -> MapFolder:
    made = MapFolder(tmp_path)
    for name in "abcdefgh":
        made.add(name, stripes(20, 30))
    made.name_classes("other", "cat", "dog", "cow", "yak")
    return made


@pytest.fixture
def damaged(folder) -> MapFolder:
    folder.add("b", stripes(20, 30, (1, 7)))
    folder.add("c", stripes(20, 30, (7, 9, 1)))
    folder.add("d", stripes(20, 30, (0, 255)))
    (folder.maps / "e.png").unlink()
    (folder.images / "f.jpg").unlink()
    Image.new("RGB", (29, 20)).save(folder.images / "g.jpg")
    (folder.maps / "h.png").write_bytes((folder.maps / "h.png").read_bytes()[:50])
    return folder


def test_good_maps_have_nothing_fatal_to_report(folder):
    report = check(folder.maps, folder.images, data=SPEC)

    assert report.usable
    assert (report.images, report.annotations, report.categories) == (8, 8, 4)
    assert {kind: found[0].message for kind, found in report.problems.items()} == {
        "class without pixels": "'yak' (number 4) is in no map"
    }


def test_every_problem_is_counted_and_named(damaged):
    report = check(damaged.maps, damaged.images, data=SPEC)

    assert not report.usable
    assert {kind: len(found) for kind, found in report.problems.items()} == {
        "number 7 is no class": 2, "number 9 is no class": 1, "map without class": 1, "image without map": 1,
        "map without image": 1, "image size": 1, "broken map": 1, "class without pixels": 1,
    }  # fmt: skip
    first = {kind: found[0].message for kind, found in report.problems.items()}
    assert first["number 7 is no class"] == f"{damaged.maps / 'b.png'}: 7 (300 pixels) is no class"
    assert first["image without map"] == f"{damaged.images / 'e.jpg'}: no e.* in {damaged.maps}"
    assert "g.jpg is (20, 29)" in first["image size"]


def test_the_command_takes_the_kind_and_what_its_numbers_mean(damaged, capsys):
    names = damaged.root / "names"
    names.write_text("".join(f"class {number}\n" for number in range(10)))

    assert cli([str(damaged.maps), str(damaged.images), "--kind", "ade20k", "--names", str(names), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert not [kind for kind in said["problems"] if "is no class" in kind]
    arguments = [
        str(damaged.maps),
        str(damaged.images),
        "--kind",
        "ade20k",
        "--ignore-value",
        "7",
        "--no-reduce-zero-label",
    ]
    assert cli(arguments) == 1
    text = capsys.readouterr().out
    assert "1 x number 9 is no class" in text
    assert "number 7" not in text
    assert "1 x number 255 is no class" in text


def test_training_refuses_what_the_check_would_and_says_how_to_see_all(damaged, tmp_path):
    data = open_dataset(
        SPEC.override({"broken_images": "skip"}), damaged.source, Input(32, (0,) * 3, (1,) * 3), training=True
    )

    with pytest.raises(
        DataError, match=r"4 of 6 images cannot be used, first .*b.png: 7 \(300 pixels\) is no class.*--kind ade20k"
    ):
        refuse_broken(data, tmp_path / "stamps")


def test_folders_of_classes_are_looked_at_too(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(tmp_path / name / "1.png")
    (tmp_path / "dog" / "2.png").write_bytes(b"no image")

    report = check(tmp_path, tmp_path, data=ImageNetSpec(name="custom"))

    assert (report.images, report.categories, report.usable) == (3, 2, False)
    assert [problem.kind for problem in report.problems["broken image"]] == ["broken image"]


def test_masks_of_0_and_255_are_told_that_one_class_is_all_there_is(folder):
    for name in "abcdefgh":
        folder.add(name, stripes(20, 30, (0, 255)))

    report = check(folder.maps, folder.images, data=SPEC.override({"reduce_zero_label": False}))

    assert report.problems["one class alone"][0].message.startswith(
        "'other' is the only class that has pixels, 2400 pixels are ignored"
    )


def test_of_maps_that_cannot_be_read_nobody_says_that_they_are_ignored(folder):
    for name in "abcdefgh":
        folder.add(name, np.stack([stripes(20, 30)] * 3, axis=-1), pixels=np.zeros((20, 30, 3), dtype=np.uint8))

    report = check(folder.maps, folder.images, data=SPEC)

    assert list(report.problems) == ["broken map"]
