"""On a wheel of the same layout, drawn here: no test reaches an index."""

import io
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from piip.data.check import check
from piip.data.demo import __main__, wheel
from piip.data.demo.aerial import KEPT_SHARE, Tiling, make_aerial, seen, tiles
from piip.data.locating import locate
from piip.data.sources import DataError
from piip.spec import CocoSpec

SIDES = [(230, 247), (125, 104), (64, 64), (64, 64)]
"""Widths and heights, a tenth of the real ones."""
TILING = Tiling(tile=80)


def corners(number):
    """Boxes of a photograph; of the first, one across the border of training and validation (at 247 - 74 = 173) and a tile's edge."""
    return [[2, 1, 20, 17], [30, 40, 47, 58]] + ([[60, 170, 90, 200]] if number == 0 else [])


def layout():
    """The wheel's members."""
    members = {"deepforest-2.1.0.dist-info/licenses/LICENSE": b"MIT License\n\nCopyright (c) somebody"}
    for number, (name, (width, height)) in enumerate(zip(wheel.PHOTOGRAPHS, SIDES, strict=True)):
        grey = np.random.default_rng(number).integers(0, 256, (height, width, 1), dtype=np.uint8)
        pixels = grey.repeat(3, axis=2)
        Image.fromarray(pixels).save(file := io.BytesIO(), "png")
        objects = "".join(
            "<object><name>Tree</name><bndbox>"
            + "".join(f"<{tag}>{v}</{tag}>" for tag, v in zip(wheel.CORNERS, box, strict=True))
            + "</bndbox></object>"
            for box in corners(number)
        )
        members[f"deepforest/data/{name}.png"] = file.getvalue()
        members[f"deepforest/data/{name}.xml"] = f"<annotation>{objects}</annotation>".encode()
    return members


def zipped(file, members):
    with ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


@pytest.fixture
def made_wheel(tmp_path):
    return zipped(tmp_path / "deepforest-2.1.0-py3-none-any.whl", layout())


@pytest.fixture
def aerial(made_wheel, piip_home):
    make_aerial(piip_home / "data" / "aerial", TILING, made_wheel)
    return piip_home / "data" / "aerial"


def document(folder, split):
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


def test_the_data_pass_our_own_check_where_rows_look_for_them(aerial):
    for split in ("train", "val"):
        source = locate(CocoSpec(name="aerial"), split)
        report = check(source.annotations, source.images)

        assert source.images == aerial / split
        assert report.usable
        assert set(report.problems) <= {"no mask"}  # boxes alone


def test_no_pixel_is_in_two_tiles_and_all_are_in_one():
    for width, height in SIDES:
        times_seen = np.zeros((height, width), dtype=int)
        for val in (False, True):
            for top, left, h, w in tiles(height, width, TILING, val=val):
                assert max(h, w) <= TILING.tile
                assert (top >= height - round(0.3 * height)) == val
                times_seen[top : top + h, left : left + w] += 1
        assert (times_seen == 1).all()


def test_boxes_lie_on_their_trees_and_share_them_among_tiles(aerial):
    area = 0
    for split in ("train", "val"):
        images = {image["id"]: image for image in document(aerial, split)["images"]}
        for annotation in document(aerial, split)["annotations"]:
            image = images[annotation["image_id"]]
            x, y, w, h = annotation["bbox"]
            whole = next(
                box for box in corners(wheel.PHOTOGRAPHS.index(image["photograph"]))
                if box[0] <= image["left"] + x and image["left"] + x + w <= box[2]
                and box[1] <= image["top"] + y and image["top"] + y + h <= box[3]
            )  # fmt: skip
            share = w * h / ((whole[2] - whole[0]) * (whole[3] - whole[1]))
            area += w * h

            assert annotation["iscrowd"] == (share < KEPT_SHARE)
            assert 0 <= x <= x + w <= image["width"]
            assert 0 <= y <= y + h <= image["height"]
    assert area == sum((b[2] - b[0]) * (b[3] - b[1]) for number in range(4) for b in corners(number))


def test_a_tree_that_is_hardly_seen_is_a_crowd():
    boxes = np.array([[90.0, 10, 110, 30], [99.5, 10, 120, 30], [70, 0, 102, 20]])

    assert list(seen(boxes, (0, 100, 100, 100))) == [
        ([0, 10, 10, 20], 0.5),
        ([0, 10, 20, 20], 20 / 20.5),
        ([0, 0, 2, 20], 2 / 32),
    ]


def test_images_are_the_photographs_tiles(aerial, made_wheel):
    photographs = {photograph.name: photograph.pixels for photograph in wheel.read(made_wheel).photographs}
    for image in document(aerial, "val")["images"]:
        part = photographs[image["photograph"]][image["top"] :, image["left"] :][: image["height"], : image["width"]]
        saved = np.asarray(Image.open(aerial / "val" / image["file_name"])).astype(int)

        assert saved.shape == part.shape
        assert np.corrcoef(saved.ravel(), part.ravel())[0, 1] > 0.95


def test_the_licence_is_beside_the_data_and_told(made_wheel, tmp_path, capsys):
    assert __main__.cli([str(tmp_path / "x"), "--kind", "aerial", "--wheel", str(made_wheel), "--tile", "80"]) == 0

    licence = (tmp_path / "x" / "LICENSE.txt").read_text()
    printed = capsys.readouterr().out
    assert "weecology/DeepForest" in licence
    assert "Copyright (c) somebody" in licence
    assert "MIT licence, Copyright (c) 2019, Ben Weinstein" in printed
    assert f"--train-annotations {tmp_path / 'x' / 'annotations' / 'instances_train.json'}" in printed


def test_equal_wheels_give_equal_bytes_and_a_second_time_replaces_the_first(aerial, made_wheel):
    before = {path: path.read_bytes() for path in aerial.rglob("*.*")}

    make_aerial(aerial, TILING, made_wheel)

    assert {path: path.read_bytes() for path in aerial.rglob("*.*")} == before
    assert [path.name for path in aerial.parent.iterdir()] == ["aerial"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"deepforest/data/OSBS_029.png": None}, r"\(deepforest-2\.1\.0\) lacks deepforest/data/OSBS_029\.png; wanted: DeepForest 2\.1\.0"),
        ({"deepforest/data/SOAP_061.xml": b"<annotation>"}, r"cannot be read as a wheel of DeepForest 2\.1\.0: no element found"),
        ({"deepforest/data/SOAP_061.png": b"GIF"}, r"cannot be read as a wheel of DeepForest 2\.1\.0: cannot identify"),
        ({"deepforest/data/SOAP_061.xml": b"<a><object/></a>"}, r"object 1 of SOAP_061\.xml has corners \[nan, nan, nan, nan\], none"),
        ({"deepforest-2.1.0.dist-info/licenses/LICENSE": None}, r"\(no version\) lacks \*\.dist-info/licenses/LICENSE"),
    ],
)  # fmt: skip
def test_a_wheel_that_lacks_something_is_refused_and_what_was_there_stays(change, said, aerial, tmp_path):
    members = {name: content for name, content in (layout() | change).items() if content is not None}
    wrong = zipped(tmp_path / "wrong.whl", members)

    with pytest.raises(DataError, match=said):
        make_aerial(aerial, TILING, wrong)

    assert locate(CocoSpec(name="aerial"), "train").images == aerial / "train"
    assert [path.name for path in aerial.parent.iterdir()] == ["aerial"]


def test_what_is_no_wheel_is_one_line(tmp_path, capsys):
    (tmp_path / "x.whl").write_text("not a zip")

    assert __main__.cli([str(tmp_path / "x"), "--kind", "aerial", "--wheel", str(tmp_path / "x.whl")]) == 1

    assert "File is not a zip file. Fetch it: pip download --no-deps deepforest==2.1.0" in capsys.readouterr().err


def test_pip_is_asked_for_one_version_and_nothing_is_installed(made_wheel, tmp_path, monkeypatch):
    asked = []

    def pip(command, **_):
        asked.append(command)
        folder = Path(command[command.index("--dest") + 1])
        (folder / made_wheel.name).write_bytes(made_wheel.read_bytes())
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    make_aerial(tmp_path / "out", TILING)

    (command,) = asked
    assert command[1:5] == ["-m", "pip", "download", "--no-deps"]
    assert command[-1] == "deepforest==2.1.0"
    assert not Path(command[command.index("--dest") + 1]).exists()


def test_a_machine_without_an_index_is_told_what_to_do(tmp_path, capsys, monkeypatch):
    answer = SimpleNamespace(returncode=1, stdout="", stderr="WARNING: retrying\nERROR: No matching distribution found")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)

    assert __main__.cli([str(tmp_path / "x"), "--kind", "aerial"]) == 1

    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert (
        "pip could not fetch deepforest==2.1.0: ERROR: No matching distribution found. Where an index is reached"
        in said
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--kind", "aerial", "--seed", "3"], ["--tile", "400"]])
def test_options_of_the_other_kind_are_refused(words, tmp_path, capsys):
    assert __main__.cli([str(tmp_path / "x"), *words]) == 2

    assert f"{words[-2]}: it is of --kind " in capsys.readouterr().err
