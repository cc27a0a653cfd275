import contextlib
import json
import shlex
from pathlib import Path

import pytest
from inputs import grey
from kinds import DATA
from PIL import Image

from piip.data import check as checking
from piip.data import decoding
from piip.data.check import check, cli
from piip.data.decoding import command_of, refuse_broken
from piip.data.formats.coco import CocoDataset
from piip.data.sources import DataError, Source
from piip.spec import Ade20kSpec, CocoSpec, ImageNetSpec
from piip.spec.data import kinds_called


@pytest.fixture
def run(capsys):
    """`python -m piip.data.check ARGUMENTS`: exit status, stdout, stderr."""
    return lambda *arguments: (cli([*map(str, arguments)]), *capsys.readouterr())


def test_good_data_has_nothing_to_report(tiny_coco):
    report = check(tiny_coco.annotations, tiny_coco.images)

    assert report.usable
    assert report.problems == {}
    assert (report.images, report.annotations, report.categories) == (4, 5, 3)


@pytest.fixture
def damaged(coco_folder):
    """Ten problems of six kinds."""
    for _ in range(3):
        coco_folder.add_object(coco_folder.add_image())
    for _ in range(5):
        coco_folder.add_object(10, category=5)
    coco_folder.add_object(10, (70, 1, 5, 5))
    coco_folder.document["annotations"][0]["image_id"] = 999
    coco_folder.document["images"].append({"id": 99, "file_name": "gone.jpg", "height": 5, "width": 5})
    coco_folder.document["images"][1]["width"] = 60
    broken = coco_folder.images / "000000000016.jpg"
    broken.write_bytes(broken.read_bytes()[:900])
    return coco_folder.write()


def test_every_problem_is_listed_with_its_count(damaged):
    report = check(damaged.annotations, damaged.images)

    assert not report.usable
    assert {kind: len(found) for kind, found in report.problems.items()} == {
        "unknown category": 5, "unknown image": 1, "degenerate box": 1, "image not found": 1,
        "image size": 1, "broken image": 1,
    }  # fmt: skip


def test_the_command_tells_people_and_programs(damaged, run):
    status, text, _ = run(damaged.annotations, damaged.images)
    assert status == 1
    assert "5 x unknown category" in text
    assert "and 2 more" in text
    assert "000000000016.jpg: cannot be decoded" in text
    assert "not usable as it is" in text

    status, document, _ = run(damaged.annotations, damaged.images, "--json")
    assert status == 1
    found = json.loads(document)
    assert found["usable"] is False
    assert found["problems"]["unknown category"]["count"] == 5


def test_the_command_succeeds_on_good_data_and_names_a_missing_file(tiny_coco, run):
    status, text, _ = run(tiny_coco.annotations, tiny_coco.images)
    assert (status, text.splitlines()[-1]) == (0, "good")

    assert run("no.json", tiny_coco.images) == (2, "", "error: ANNOTATIONS no.json: no such file or folder\n")
    assert run(tiny_coco.images, tiny_coco.images)[0] == 2


def test_boxes_that_are_left_out_are_forgiven_beside_others(coco_folder):
    coco_folder.add_object(coco_folder.add_image(), (70, 1, 5, 5))
    coco_folder.add_object(10, (7, 1, 5, 5))
    source = coco_folder.write()

    report = check(source.annotations, source.images)

    assert report.usable
    assert list(report.problems) == ["degenerate box"]


class TestRefuseBroken:
    @pytest.fixture
    def split(self, tiny_coco):
        """Opens the data set anew: what another call of a sweep would see."""
        return lambda: CocoDataset(
            Source(tiny_coco.annotations, tiny_coco.images), CocoSpec(), grey(64), training=False
        )

    def test_good_images_are_decoded_once(self, split, tmp_path, monkeypatch):
        refuse_broken(split(), tmp_path / "decoded")

        monkeypatch.setattr(CocoDataset, "image_error", lambda *_: DataError("looked again"))
        refuse_broken(split(), tmp_path / "decoded")

    def test_broken_ones_are_counted_and_named_each_time(self, split, tmp_path):
        dataset = split()
        for path in dataset.source.images.glob("*.jpg"):
            path.write_bytes(path.read_bytes()[:300])

        for _ in range(2):
            with pytest.raises(DataError, match=r"of 4 images cannot be used, first .*jpg: cannot be decoded"):
                refuse_broken(split(), tmp_path / "decoded")

    def test_long_work_says_how_far_it_is(self, split, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(decoding, "SECONDS_BETWEEN_LINES", 0.0)

        refuse_broken(split(), tmp_path / "decoded")

        assert "4 of 4 images" in capsys.readouterr().err


def test_annotations_without_masks_are_told_and_forgiven(coco_folder, run):
    coco_folder.add_object(coco_folder.add_image(), segmentation=None)
    source = coco_folder.write()

    status, text, _ = run(source.annotations, source.images)

    assert status == 0
    assert "1 x no mask (forgiven)" in text


def test_class_folders_are_checked_too(tmp_path, run):
    for name in ("ant/0.png", "bee/0.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name)

    status, text, _ = run(tmp_path, "--kind", "imagenet")
    assert (status, text.splitlines()) == (
        0,
        [
            "2 images, 2 annotations, 2 categories",
            "training sees: 2 images, 2 classes, 1 images of the smallest class, 1 of the largest",
            "scoring counts: 2 images",
            "good",
        ],
    )

    (tmp_path / "bee/1.png").write_bytes(b"no image")
    status, text, _ = run(tmp_path, "--kind", "imagenet")
    assert status == 1
    assert "1 x broken image" in text
    assert "bee/1.png: not an image (8 bytes)" in text


def test_detection_needs_the_folder_of_its_images(tiny_coco, tmp_path, run):
    said = "error: data for detection (coco) need the folder of their images, too: ANNOTATIONS IMAGES\n"
    assert run(tiny_coco.annotations) == (2, "", said)
    assert "no data of kind coco in it; looked for annotations/instances_train2017.json" in run(tmp_path)[2]


@pytest.mark.parametrize("data", DATA, ids=lambda data: data.kind)
def test_a_task_is_another_name_for_its_kind_of_data(data, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        Path(folder).mkdir()
    looked = []
    monkeypatch.setattr(checking, "check", lambda *_, data, **__: looked.append(data))

    first = kinds_called(data.task)[0] == data.kind
    words = (data.kind, data.task) if first else (data.kind,)
    for word in words:
        with contextlib.suppress(AttributeError):  # there is no report
            cli(["a", "b", "--kind", word])

    assert [type(seen) for seen in looked] == [type(data)] * len(words)


def test_every_kind_of_data_has_a_task_and_a_word_is_never_both():
    assert all(data.task and data.holds for data in DATA)
    assert not {data.task for data in DATA} & {data.kind for data in DATA}
    assert kinds_called("poetry") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["f", "--kind", "imagenet"], "f is a file; classification (imagenet) wants a folder with a folder for each class"),
        (["f", "d", "--kind", "segmentation"], "f is a file; segmentation (ade20k) wants a folder with label maps, a PNG"),
        (["d", "f", "--kind", "segmentation"], "f is a file; segmentation (ade20k) wants a folder of images"),
        (["f", "f"], "f is a file; detection (coco) wants a folder of images"),
        (["d", "d"], "d is a folder; detection (coco) wants a file with COCO-format JSON, with the lists images, annotations "
         "and categories (folders are for --kind ade20k, imagenet, yolo, voc, cityscapes)"),
    ],
)  # fmt: skip
def test_a_file_for_a_folder_is_called_that_with_what_is_wanted(tmp_path, monkeypatch, run, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("f").touch()
    Path("d").mkdir()

    status, out, error = run(*arguments)

    assert (status, out) == (2, "")
    assert error.startswith(f"error: {said}")


@pytest.mark.parametrize(
    ("data", "files", "words"),
    [
        (CocoSpec(), Source(Path("a b.json"), Path("i")), "'a b.json' i"),
        (ImageNetSpec(), Source(Path("f"), Path("f")), "f --kind imagenet"),
        (Ade20kSpec(), Source(Path("m"), Path("i")), "m i --kind ade20k --names ade20k"),
        (
            Ade20kSpec(name="custom", reduce_zero_label=False, ignore_value=7),
            Source(Path("m"), Path("i"), Path("n.txt")),
            "m i --kind ade20k --names n.txt --no-reduce-zero-label --ignore-value 7",
        ),
    ],
)
def test_the_command_to_see_all_asks_for_the_same_data(data, files, words, monkeypatch, tmp_path):
    command = command_of(files, data)
    monkeypatch.chdir(tmp_path)
    for path in {files.annotations, files.images, *filter(None, [files.names])}:
        path.touch() if path.suffix else path.mkdir()

    assert command == f"python -m piip.data.check {words}"
    looked = []
    monkeypatch.setattr(checking, "check", lambda *paths, data, names, **_: looked.append((paths, data, names)))
    with contextlib.suppress(AttributeError):  # there is no report
        cli(shlex.split(command)[3:])
    ((paths, asked, names),) = looked
    assert paths == (files.annotations, files.images)
    assert asked.model_dump(exclude={"name"}) == data.model_dump(exclude={"name"})
    assert (asked.name == "ade20k") == (data.name == "ade20k")
    assert names in (files.names, Path("ade20k"))


def test_boxes_given_as_two_corners_are_told_of_and_learned_inside(coco_folder):
    image = coco_folder.add_image(64, 48)
    coco_folder.add_object(image, (8, 8, 20, 16))
    coco_folder.add_object(image, (44, 32, 21, 17))  # a pixel, as rounding does
    over = coco_folder.add_object(image, (40, 8, 60, 24), segmentation=[[40, 8, 60, 8, 60, 24]])

    report = check(coco_folder.write().annotations, coco_folder.images)

    assert report.usable
    assert [problem.message.split(" ")[1] for problem in report.problems["box over the edge"]] == [str(over)]
    assert "reaches 36 pixels out of the image of 64 x 48" in report.problems["box over the edge"][0].message


@pytest.mark.parametrize("name", ["A.PNG", "images\\a.png", "train/a.png"])
def test_a_name_that_is_nearly_one_that_is_there_is_told_so(name, coco_folder):
    coco_folder.add_object(coco_folder.add_image(name="a.png"))
    coco_folder.document["images"][0]["file_name"] = name
    source = coco_folder.write()

    said = check(source.annotations, source.images).problems["image not found"][0].message
    with pytest.raises(DataError, match=r"first .*; 'a.png' is there: names are paths below the folder"):
        CocoDataset(source, CocoSpec(name="custom"), grey(64), training=False)

    assert "'a.png' is there" in said
