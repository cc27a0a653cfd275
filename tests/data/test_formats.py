"""What people's formats of detection data become: the same objects in each are the same targets, scores, checks and COCO JSON."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import formats
import numpy as np
import pytest
import torch
from formats import FORMATS, IGNORED, NAMES, OBJECTS, SIZES, images
from inputs import grey
from PIL import Image

from piip.data import open_dataset
from piip.data.check import check
from piip.data.check import cli as check_cli
from piip.data.convert import cli as convert_cli
from piip.data.convert import convert
from piip.data.decoding import command_of
from piip.data.documents import read_document
from piip.data.formats.columns import Columns
from piip.data.layouts import splits_in
from piip.data.sources import DataError, Source
from piip.spec import CocoSpec, Data, DetectionSpec
from piip.spec.data import named_kind

KINDS = list(FORMATS)
MASKED = {"lvis", "keypoints", "cityscapes"}


def spec_of(kind: str, **fields):
    return named_kind(kind, "custom", short_ratio=1.0, pad_multiple=32, flip=0.0, **fields)


def opened(kind: str, source: Source, *, training: bool = True, masks: bool | None = None, **fields):
    wanted = replace(grey(80), masks=kind in MASKED if masks is None else masks)
    return open_dataset(spec_of(kind, **fields), source, wanted, training=training)


def stem(info) -> str:
    return Path(info.file_name).stem.removesuffix("_leftImg8bit")


def targets(dataset) -> dict:
    return {stem(info): dataset.sample(k, 0).target for k, info in enumerate(dataset.infos)}


def same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].keys() == other[name].keys()
        for part in one[name]:
            assert torch.equal(one[name][part], other[name][part])


def test_every_format_is_tried_here():
    kinds = {
        kind.model_fields["kind"].default for kind in get_args(get_args(Data)[0]) if issubclass(kind, DetectionSpec)
    }
    assert kinds - {"coco"} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_those_that_were_written(kind, tmp_path):
    dataset = opened(kind, FORMATS[kind](tmp_path))

    assert {stem(info): (info.width, info.height) for info in dataset.infos} == {
        name: size for name, size in SIZES.items() if name != "c" or kind != "openimages"
    }
    assert [c["name"] for c in dataset.classes] == (["person"] if kind == "crowdhuman" else ["cat", "dog"])
    for info, target in zip(dataset.infos, targets(dataset).values(), strict=True):
        name, factor = stem(info), 80 / max(info.width, info.height)
        boxes = torch.tensor([box for _, box in OBJECTS[name]], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        torch.testing.assert_close(torch.as_tensor(target["boxes"]), boxes * factor, atol=1e-4, rtol=0)
        assert target["labels"].tolist() == [1 if kind == "crowdhuman" else label for label, _ in OBJECTS[name]]
        assert ("mask_runs" in target) == (kind in MASKED)


@pytest.mark.parametrize("kind", KINDS)
def test_found_as_it_is_everything_scores_one(kind, tmp_path):
    dataset = opened(kind, FORMATS[kind](tmp_path), training=False)
    metric = dataset.metric()

    for index, info in enumerate(dataset.infos):
        truth = [entry for entry in dataset.truth(index) if not entry["iscrowd"]]
        results = [
            {k: v for k, v in entry.items() if k in ("image_id", "category_id", "bbox")} | {"score": 0.9}
            for entry in truth
        ]
        if kind not in ("yolo", "lvis") and stem(info) == IGNORED[0]:  # in an ignored region: not wrong
            category = dataset.classes[0]["id"]
            results.append(
                {
                    "image_id": info.image_id,
                    "category_id": category,
                    "bbox": list(map(float, IGNORED[2])),
                    "score": 0.95,
                }
            )
        metric.update(results, info)

    score = dataset.spec.scores[0].name
    # CrowdHuman's tools begin the curve at the first person's recall, so that one of three is lost
    best = 1 - 1 / 3 if kind == "crowdhuman" else 1.0
    assert metric.compute()[score] == pytest.approx(best, abs=1e-5)
    others = {"coco/mask_ap", "coco/keypoint_ap", "lvis/mask_ap"}  # of which nothing was found
    assert {score.name for score in dataset.spec.scores} - set(metric.compute()) <= others


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_counts_what_training_sees(kind, tmp_path):
    source = FORMATS[kind](tmp_path)

    report = check(source.annotations, source.images, data=spec_of(kind), names=source.names)

    assert report.usable, report.problems
    assert set(report.problems) == ({UNUSED} if kind == "openimages" else set())
    ignored = kind not in ("yolo", "lvis")
    assert report.seen.training["boxes"] == 3
    assert report.seen.training.get("left out: crowds", 0) == ignored
    assert report.seen.training["images"] == (2 if kind == "openimages" else 3)
    assert report.seen.training["masks"] == (3 if kind in MASKED else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_converted_it_gives_the_same_targets_and_the_same_truth(kind, tmp_path):
    source = FORMATS[kind](tmp_path / "data")
    out = tmp_path / "new" / "coco.json"

    convert(read_document(spec_of(kind), source), out)

    masks = kind in MASKED
    own, coco = (opened(k, s, masks=masks) for k, s in ((kind, source), ("coco", Source(out, source.images))))
    assert own.infos == coco.infos
    assert [(c["id"], c["name"]) for c in own.classes] == [(c["id"], c["name"]) for c in coco.classes]
    same(targets(own), targets(coco))
    assert [own.truth(k) for k in range(len(own))] == [coco.truth(k) for k in range(len(coco))]
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("kind", KINDS)
def test_the_digest_is_of_what_is_there(kind, tmp_path):
    first, second = (FORMATS[kind](tmp_path / name) for name in ("one", "two"))
    before = opened(kind, first).digest
    assert opened(kind, second).digest == before

    touched = next(path for path in sorted(first.images.rglob("a*")) if path.is_file())
    touched.write_bytes(touched.read_bytes() + b"\0")

    assert opened(kind, first).digest != before


def rewritten(path: str, old: str, new: str):
    def damage(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new, 1))

    return damage


def written(path: str, content: str | bytes):
    def damage(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def no(path: str):
    return lambda root: (root / path).unlink()


LABEL, XML, ODGT = "labels/train/b.txt", "Annotations/a.xml", "annotation_train.odgt"
BOXES, LVIS, POINTS = "annotations/train-annotations-bbox.csv", "lvis_v1_train.json", "person_keypoints_train2017.json"
MAP = "gtFine/train/town/a_gtFine_instanceIds.png"
DAMAGE = [
    ("yolo", written(LABEL, "1 .5 .5 .2"), r"b\.txt line 1: 4 numbers; CLASS CX CY W H"),
    ("yolo", written(LABEL, "1 .5 .5 .2 .2 .9"), r"b\.txt line 1: 6 numbers; are these predictions"),
    ("yolo", written(LABEL, "\n1 .5 .5 .2 x"), r"b\.txt line 2: 'x' is no number"),
    ("yolo", written(LABEL, "2 .5 .5 .2 .2"), r"b\.txt line 1: class 2; 2 classes are known, 0 to 1"),
    ("yolo", written(LABEL, "1.5 .5 .5 .2 .2"), r"b\.txt line 1: class 1\.5"),
    ("yolo", written(LABEL, "1 20 30 10 10"), r"b\.txt line 1: 20 is not within 0\.\.1: parts of the image"),
    ("yolo", written(LABEL, "1 .5 .5 nan .1"), r"b\.txt line 1: 'nan' is no number"),
    ("yolo", written(LABEL, b"\xff\xfe\x00"), r"b\.txt: not text"),
    ("yolo", written("data.yaml", "names: [cat"), r"data\.yaml: no YAML"),
    ("yolo", written("data.yaml", "nc: 3\nnames: [cat, dog]"), r"data\.yaml: nc says 3 classes, names has 2"),
    ("yolo", written("data.yaml", "names: {1: cat, 2: dog}"), r"data\.yaml: names are numbered \[1, 2\]"),
    ("yolo", written("data.yaml", "names: 7"), r"data\.yaml: names is 7"),
    ("yolo", no("data.yaml"), r"what are the classes of the labels in .* called"),
    ("yolo", written("images/train/a.png", b""), r"a\.jpg and a\.png share the labels a\.txt"),
    ("yolo", written("images/train/b.jpg", b"no image"), r"b\.jpg: not an image"),
    ("yolo", lambda root: (root / "labels/train").rename(root / "gone"), r"none of 3 images has a file of labels; looked for .*a\.txt"),
    ("voc", written(XML, "<annotation><object>"), r"a\.xml: no complete XML"),
    ("voc", written(XML, "<html/>"), r"a\.xml: its outermost element is <html>"),
    ("voc", rewritten(XML, "<xmin>9</xmin>", "<xmin>left</xmin>"), r"a\.xml object 1: bndbox has xmin 'left'"),
    ("voc", rewritten(XML, "<xmin>9</xmin>", "<xmin>90</xmin>"), r"a\.xml object 1: it ends before it begins: x 90 to 28"),
    ("voc", rewritten(XML, "<name>cat</name>", "<name> </name>"), r"a\.xml object 1: it has no name"),
    ("voc", rewritten(XML, "<difficult>0<", "<difficult>perhaps<"), r"a\.xml object 1: difficult is 'perhaps'"),
    ("voc", no(XML), r"a\.xml; the list names it"),
    ("voc", written("ImageSets/Main/train.txt", "\n"), r"train\.txt: names no image"),
    ("voc", no("JPEGImages/c.jpg"), r"not found: .*c\.jpg"),
    ("crowdhuman", rewritten(ODGT, '{"ID": "b"', '{"ID": "b'), r"train\.odgt line 2: no complete JSON"),
    ("crowdhuman", rewritten(ODGT, '{"ID": "b"', '{"ID": 7'), r"train\.odgt line 2: ID is 7"),
    ("crowdhuman", rewritten(ODGT, '{"ID": "b"', '{"ID": "a"'), r"train\.odgt line 2: a\.jpg is in line 1 already"),
    ("crowdhuman", rewritten(ODGT, '"fbox": [8', '"fbox": [null'), r"train\.odgt line 1: fbox is \[None, 8, 20, 16\]"),
    ("crowdhuman", written(ODGT, ""), r"train\.odgt: no line is an image"),
    ("openimages", rewritten(BOXES, "XMin", "x_min"), r"bbox\.csv: no column XMin"),
    ("openimages", rewritten(BOXES, "/m/01yrx", "/m/x"), r"bbox\.csv line 2: LabelName is '/m/x'"),
    ("openimages", rewritten(BOXES, ",0.125,", ",12,"), r"bbox\.csv line 2: XMin '12', .*within 0\.\.1"),
    ("openimages", rewritten(BOXES, ",0.125,", ",0.9,"), r"bbox\.csv line 2: it ends before it begins: x 0\.9 to 0\.4375"),
    ("openimages", rewritten(BOXES, ",0,0,0,0,0", ",0,0,2,0,0"), r"bbox\.csv line 2: IsGroupOf is '2'"),
    ("openimages", no("annotations/class-descriptions-boxable.csv"), r"which classes are there"),
    ("openimages", written("annotations/class-descriptions-boxable.csv", "cat\n"), r"boxable\.csv: line 1 is \['cat'\]"),
    ("lvis", rewritten(LVIS, '"frequency": "f"', '"frequency": "z"'), r"category 1 has frequency 'z'"),
    ("lvis", rewritten(LVIS, '"neg_category_ids": [1]', '"neg_category_ids": [5]'), r"image 1: neg_category_ids is \[5\]"),
    ("crowdhuman", no(ODGT), r"annotations not found: .*train\.odgt"),
    ("crowdhuman", written(ODGT, b"\xff\xfe\x00"), r"train\.odgt: not text"),
    ("openimages", no(BOXES), r"annotations not found: .*bbox\.csv"),
    ("openimages", written(BOXES, b"ImageID,LabelName,XMin,XMax,YMin,YMax\na,\xff"), r"bbox\.csv: line 1 is no CSV in UTF-8"),
    ("openimages", rewritten(BOXES, "\na,", "\n,"), r"bbox\.csv line 2: ImageID is empty"),
    ("lvis", no(LVIS), r"annotations not found: .*lvis_v1_train\.json|lvis_v1_train\.json"),
    ("lvis", written(LVIS, '{"images": ['), r"lvis_v1_train\.json: not complete JSON"),
    ("lvis", rewritten(LVIS, '"category_id": 1', '"category_id": 9'), r"annotation 1 has category 9, which is not in categories"),
    ("lvis", rewritten(LVIS, '"image_id": 1', '"image_id": 9'), r"annotation 1 is for image 9, which is not in images"),
    ("keypoints", no(POINTS), r"person_keypoints_train2017\.json"),
    ("keypoints", written(POINTS, "[]"), r"2017\.json: not COCO-format detection data, it has no list 'images'"),
    ("keypoints", rewritten(POINTS, '"category_id": 1', '"category_id": 9'), r"annotation 1 has category 9"),
    ("keypoints", written(POINTS, '{"images": [], "annotations": [], "categories": []}'), r"no category names its keypoints"),
    ("cityscapes", written("classes.txt", "24 cat\n24 dog\n"), r"classes\.txt: a number twice"),
    ("voc", written(XML, b"<annotation>\xff</annotation>"), r"a\.xml: no complete XML"),
    ("voc", no("ImageSets/Main/train.txt"), r"train\.txt"),
    ("lvis", rewritten(LVIS, '"bbox": [8', '"bbox": [-1e9'), r"annotation 1 of image 1 has bbox"),
    ("keypoints", rewritten(POINTS, '"keypoints": [8, 8, 2,', '"keypoints": [8, 8,'), r"annotation 1 has keypoints .* each of 2 are"),
    ("keypoints", rewritten(POINTS, '"num_keypoints": 2', '"num_keypoints": 1'), r"annotation 1 has num_keypoints 1, and 2 that"),
    ("keypoints", rewritten(POINTS, '"keypoints": [8, 8, 2,', '"keypoints": [8, 8, 3,'), r"annotation 1 has a keypoint of visibility 3"),
    ("cityscapes", written(MAP, b"no map"), r"instanceIds\.png: not an image"),
    ("cityscapes", written("classes.txt", "cat\n"), r"classes\.txt: .*a line a class, its number"),
    ("cityscapes", no("leftImg8bit/train/town/a_leftImg8bit.png"), r"not found: .*a_leftImg8bit\.png|images not found"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "damage", "said"), DAMAGE, ids=[f"{k}-{n}" for n, (k, *_) in enumerate(DAMAGE)])
def test_what_is_wrong_is_named_with_its_file_and_line_by_training_and_by_the_check(
    kind, damage, said, tmp_path, capsys
):
    source = FORMATS[kind](tmp_path)
    damage(tmp_path)

    with pytest.raises(DataError, match=said):
        opened(kind, source)

    names = ["--names", str(source.names)] if source.names else []
    status = check_cli([str(source.annotations), str(source.images), "--kind", kind, *names])
    told = capsys.readouterr()
    assert status == (1 if source.annotations.exists() else 2)
    assert "Traceback" not in told.err
    assert re.search(said if status == 1 else "no such file", told.out + told.err)


def reported(kind: str, source: Source) -> dict[str, str]:
    """Kind of problem -> its first message."""
    report = check(source.annotations, source.images, data=spec_of(kind), names=source.names)
    return {problem: found[0].message for problem, found in report.problems.items()}


SAY_SIZES = {"voc", "lvis", "keypoints", "cityscapes"}
"""Whose annotations say how large an image is."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["image not found", "broken image", "cut off", "image size"])
def test_every_format_names_the_images_that_cannot_be_used(kind, fault, tmp_path):
    source = FORMATS[kind](tmp_path)
    name = next(info.file_name for info in opened(kind, source).infos if stem(info) == "a")
    file, content = source.images / name, (source.images / name).read_bytes()
    match fault:
        case "image not found":
            file.unlink()
        case "broken image":
            file.write_bytes(b"no image")
        case "cut off":
            file.write_bytes(content[: len(content) // 2])
        case _:
            Image.new("RGB", (20, 20)).save(file)

    found = reported(kind, source)

    if kind == "openimages":  # whose c is without a row
        assert "1 image of the folder, c.jpg. No annotations: not used" in found.pop(UNUSED)
    if kind == "yolo" and fault == "image not found":  # the folder is the list of images
        assert "a.txt" in found["labels without image"]
    elif fault == "image size" and kind not in SAY_SIZES:  # nothing contradicts it, but boxes in pixels
        assert set(found) <= {"degenerate box"}
    else:
        assert name in found["broken image" if fault == "cut off" else fault]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_says_that_there_is_nothing_to_learn(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "OBJECTS", {name: [] for name in SIZES})
    source = FORMATS[kind](tmp_path)

    found = reported(kind, source)

    assert re.match(r"0 of [01] objects can be learned or scored", found["nothing to learn"])
    with pytest.raises(DataError, match=r"0 of [01] objects can be learned"):
        opened(kind, source)


BEYOND = {"yolo": "label as pixels", "openimages": "bad box"}
"""What parts of the image's sides are that lie out of it; elsewhere pixels are, which are left out."""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cityscapes"])  # whose maps have no such objects
@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((9, 9, 0.5, 0.5), "box under a pixel"),
        ((300, 9, 20, 20), "degenerate box"),
        ((50, 9, 30, 9), "box over the edge"),
    ],
)
def test_every_format_counts_the_boxes_that_are_left_out_or_cut(kind, box, said, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "OBJECTS", OBJECTS | {"a": [OBJECTS["a"][0], (2, box)]})
    source = FORMATS[kind](tmp_path)

    report = check(source.annotations, source.images, data=spec_of(kind), names=source.names)

    report.problems.pop(UNUSED, None)
    if said != "box under a pixel" and kind in BEYOND:
        assert set(report.problems) == {BEYOND[kind]}
        return
    usual = kind == "crowdhuman" and said == "box over the edge"  # persons reach out of their images
    assert set(report.problems) == (set() if usual else {said})
    assert report.usable
    assert report.seen.training["boxes"] == (3 if said == "box over the edge" else 2)
    assert sum(
        count for name, count in report.seen.training.items() if name.startswith("left out: ") and "crowd" not in name
    ) == (said != "box over the edge")


def renamed(old: str, new: str):
    def change(root: Path) -> None:
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)

    return change


def as_folder(root: Path) -> None:
    (root / "ImageSets/Main/train.txt").unlink()


def recoded(old: str, new: str):
    def change(root: Path) -> None:
        with Image.open(root / old) as image:
            image.save(root / new)
        (root / old).unlink()

    return change


UNUSED, UNREAD = "images without annotations", "images not read"
VARIANTS = [
    ("yolo", [renamed("labels/train/a.txt", "labels/train/a.TXT")], {}),
    ("yolo", [written("images/train/d.gif", b"GIF"), written("images/train/notes.doc", b"")],
     {UNREAD: r"1 image of the folder, d\.gif\. Images end in \.jpg"}),
    ("voc", [as_folder, written("JPEGImages/d.jpg", b"")],
     {UNUSED: r"1 image of the folder, d\.jpg\. No annotations: not used"}),
    ("voc", [as_folder, written("JPEGImages/d.heic", b"")], {UNREAD: r"d\.heic"}),
    ("voc", [written("JPEGImages/d.jpg", b"")], {}),  # a list says which are meant
    ("voc", [as_folder, renamed("Annotations/a.xml", "Annotations/new/a.xml"), renamed("JPEGImages/a.jpg", "JPEGImages/new/a.jpg")], {}),
    ("voc", [renamed("Annotations/b.xml", "Annotations/b 1.xml"), renamed("JPEGImages/b.jpg", "JPEGImages/b 1.jpg"),
             written("ImageSets/Main/train.txt", "a\t1\nb 1\nc  0\nx -1\n")], {}),
    ("crowdhuman", [recoded("Images/a.jpg", "Images/a.PNG")], {}),
    ("crowdhuman", [rewritten(ODGT, '"tag": "mask"', '"tag": "persn"')],
     {"unknown tag": r"train\.odgt line 2: tag is 'persn'; person or mask"}),
    ("openimages", [recoded("train/b.jpg", "train/b.tif")], {UNUSED: r"image of the folder, c\.jpg\."}),
    ("openimages", [written(f"train/{k}.jpg", b"") for k in range(3)],
     {UNUSED: r"4 images of the folder, 0\.jpg, 1\.jpg, 2\.jpg and 1 more"}),
    ("cityscapes", [written("leftImg8bit/train/town/d.png", b"")], {UNUSED: r"1 image of the folder, town/d\.png"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes", "said"), VARIANTS, ids=[f"{k}-{n}" for n, (k, *_) in enumerate(VARIANTS)])
def test_as_people_have_it_the_objects_are_the_same_and_what_is_left_aside_is_told(kind, changes, said, tmp_path):
    source = FORMATS[kind](tmp_path)
    for change in changes:
        change(tmp_path)
    if kind == "voc" and not source.annotations.exists():
        source = Source(tmp_path / "Annotations", source.images)

    report = check(source.annotations, source.images, data=spec_of(kind), names=source.names)

    assert report.usable, report.problems
    assert report.seen.training["boxes"] == 3
    assert report.seen.training["images"] == (2 if kind == "openimages" else 3)
    assert set(report.problems) == set(said) | ({UNUSED} if kind == "openimages" else set())
    for problem, message in said.items():
        assert re.search(message, report.problems[problem][0].message)


class TestYolo:
    def test_polygons_are_masks_and_their_boxes_hold_them(self, tmp_path):
        source = FORMATS["yolo"](tmp_path)
        for name, (width, height) in SIZES.items():
            corners = [
                (x, y)
                for _, (left, top, w, h) in OBJECTS[name]
                for x, y in ((left, top), (left + w, top), (left, top + h))
            ]
            lines = [corners[k : k + 3] for k in range(0, len(corners), 3)]
            text = "\n".join("0 " + " ".join(f"{x / width} {y / height}" for x, y in line) for line in lines)
            (source.annotations / f"{name}.txt").write_text(text)

        dataset = opened("yolo", source, masks=True)

        for name, target in targets(dataset).items():
            assert len(target["labels"]) == len(OBJECTS[name])
            assert "mask_runs" in target
        report = check(source.annotations, source.images, data=spec_of("yolo"))
        assert report.seen.training["masks"] == 3

    def test_a_line_twice_is_one_object_and_labels_without_an_image_are_told(self, tmp_path):
        source = FORMATS["yolo"](tmp_path)
        file = source.annotations / "b.txt"
        file.write_text(file.read_text() * 2)
        (source.annotations / "gone.txt").write_text("0 .5 .5 .1 .1")

        report = check(source.annotations, source.images, data=spec_of("yolo"))

        assert report.usable
        assert {kind: len(found) for kind, found in report.problems.items()} == {
            "label twice": 1,
            "labels without image": 1,
        }
        assert "b.txt line 2" in report.problems["label twice"][0].message
        assert report.seen.training["boxes"] == 3

    def test_one_folder_is_enough_where_labels_lie_beside(self, tmp_path):
        source = FORMATS["yolo"](tmp_path)

        same(targets(opened("yolo", source)), targets(opened("yolo", Source(source.images, source.images))))

    def test_keypoints_are_read_where_data_yaml_says_their_shape(self, tmp_path):
        source = FORMATS["yolo"](tmp_path)
        (tmp_path / "data.yaml").write_text("names: [cat, dog]\nkpt_shape: [2, 3]\n")
        for name in ("a", "b"):
            (source.annotations / f"{name}.txt").write_text("1 .5 .5 .2 .2 .25 .5 2 0 0 0")

        document = read_document(spec_of("yolo"), source)

        width, height = SIZES["a"]
        entry = document["annotations"][0]
        assert entry["keypoints"] == [width / 4, height / 2, 2.0, 0.0, 0.0, 0.0]
        assert entry["num_keypoints"] == 1
        assert entry["bbox"] == pytest.approx([0.4 * width, 0.4 * height, 0.2 * width, 0.2 * height])

    @pytest.mark.parametrize(
        ("train", "listed"),
        [
            ("train.txt", ["./images/train/{}.jpg"]),  # from the list
            ("lists/train.txt", ["images/train/{}.jpg"]),  # from `path`
            ("lists/train.txt", ["../images/train/{}.jpg"]),
            ("train.txt", ["{root}/images/train/{}.jpg"]),
            ("[images/more, images/train]", []),
            ("[train.txt, images/more]", ["images/train/{}.jpg"]),
            ("[images/train, images/more, images/train]", []),
        ],
    )
    def test_lists_and_several_folders_are_the_same_images(self, train, listed, tmp_path):
        source = FORMATS["yolo"](tmp_path)
        whole = targets(opened("yolo", source))
        if "more" in train:
            for folder, ending in (("images", "jpg"), ("labels", "txt")):
                (tmp_path / folder / "more").mkdir()
                (tmp_path / folder / "train" / f"a.{ending}").rename(tmp_path / folder / "more" / f"a.{ending}")
        names = [name for name in SIZES if "more" not in train or name != "a"]
        for line in listed:
            file = tmp_path / next(entry for entry in train.strip("[]").split(", ") if entry.endswith(".txt"))
            file.parent.mkdir(exist_ok=True)
            file.write_text("\n".join(line.format(name, root=tmp_path) for name in names))
        (tmp_path / "data.yaml").write_text(f"path: .\ntrain: {train}\nval: {train}\nnames: {json.dumps(NAMES)}\n")

        splits = splits_in(tmp_path / "data.yaml", spec_of("yolo"))

        found = targets(opened("yolo", splits["train"]))
        same({name: found[name] for name in whole}, whole)
        assert len(found) == len(whole)
        assert check_cli([str(tmp_path), "--kind", "yolo", "--split", "val"]) == 0
        if splits["val"].more:
            words = command_of(splits["train"], spec_of("yolo")).split()
            assert words[3:6] == [str(tmp_path / "data.yaml"), "--split", "train"]

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("images/train/a.jpg\nimages/train/a.jpg", r"line 2: 'images/train/a\.jpg' is there before"),
            ("images/train/a.jpg\nnotes.doc", r"line 2: 'notes\.doc'; a path that ends in \.bmp"),
            ("images/train/gone.jpg", r"not found: .*images/train/gone\.jpg"),
            ("images/train/a.jpg\nimages/train/a.png", r"share the labels a\.txt"),
            ("\n", r"train\.txt: no images"),
        ],
    )
    def test_what_a_list_has_wrong_is_named(self, line, said, tmp_path, capsys):
        source = FORMATS["yolo"](tmp_path)
        Image.new("RGB", (64, 48)).save(source.images / "a.png")
        (tmp_path / "train.txt").write_text(line)

        status = check_cli([str(tmp_path / "train.txt"), str(tmp_path), "--kind", "yolo"])

        told = capsys.readouterr()
        assert re.search(said, told.out + told.err)
        assert status == (0 if "before" in said else 1)

    @pytest.mark.parametrize(
        ("more", "order"),
        [
            ("flip_idx: [1, 0]", [1, 0]),
            ("kpt_names: {0: [left_ear, right_ear], 1: [left_ear, right_ear]}", [1, 0]),
            ("kpt_names: [nose, tail]", [0, 1]),
            ("", "nobody says which keypoint becomes which in a mirror"),
            ("flip_idx: [1, 1]", r"flip_idx is \[1, 1\]; each of 0 to 1 once"),
            ("kpt_names: [nose]", r"kpt_names is \['nose'\]; a list of 2 names"),
        ],
    )
    def test_which_keypoints_change_places_is_asked_of_data_yaml(self, more, order, tmp_path):
        source = FORMATS["yolo"](tmp_path)
        (tmp_path / "data.yaml").write_text(f"names: [cat, dog]\nkpt_shape: [2, 2]\n{more}\n")
        for name in ("a", "b"):
            (source.annotations / f"{name}.txt").write_text("1 .5 .5 .2 .2 .25 .5 .75 .5")
        wanted = replace(grey(80), masks=False, keypoints=2)
        mirrored = spec_of("yolo").model_copy(update={"flip": 1.0})

        if isinstance(order, str):
            with pytest.raises(DataError, match=order):
                open_dataset(mirrored, source, wanted, training=True)
            return

        (points,) = open_dataset(mirrored, source, wanted, training=True).sample(0, 0).target["keypoints"]
        # at 20 and 60 of 80 pixels: mirrored, at 60 and 20, and whoever changes places is at 20 and 60 again
        torch.testing.assert_close(points[:, 0], torch.tensor([60.0, 20.0])[order])

    @pytest.mark.parametrize("names", ["cat\ndog\n", "names:\n  0: cat\n  1: dog\n"])
    def test_names_come_in_the_forms_that_tools_write(self, names, tmp_path):
        source = FORMATS["yolo"](tmp_path)
        (tmp_path / "data.yaml").unlink()
        file = tmp_path / ("dataset.yaml" if "names" in names else "classes.txt")
        file.write_text(names)

        assert [c["name"] for c in opened("yolo", source).classes] == ["cat", "dog"]


def test_open_images_hierarchy_and_verified_labels_are_scored_with(tmp_path):
    source = FORMATS["openimages"](tmp_path)
    folder = source.annotations.parent
    tree = {
        "LabelName": "/m/0bl9f",
        "Subcategory": [{"LabelName": "/m/0bt9lr", "Subcategory": [{"LabelName": "/m/01yrx"}]}],
    }
    (folder / "bbox_labels_600_hierarchy.json").write_text(json.dumps(tree))
    labels = folder / "train-annotations-human-imagelabels-boxable.csv"
    labels.write_text(
        "ImageID,Source,LabelName,Confidence\na,verification,/m/01yrx,1\nb,verification,/m/01yrx,0\nz,v,/m/01yrx,0\n"
    )

    document = read_document(spec_of("openimages"), source)

    assert [category["parents"] for category in document["categories"]] == [[2], []]  # a cat is a dog here
    assert [image.get("pos_category_ids") for image in document["images"]] == [[1], None]
    assert [image.get("neg_category_ids") for image in document["images"]] == [None, [1]]
    labels.write_text("ImageID,LabelName,Confidence\na,/m/01yrx,maybe\n")
    with pytest.raises(DataError, match=r"imagelabels-boxable\.csv line 2: Confidence is 'maybe'"):
        read_document(spec_of("openimages"), source)


@pytest.mark.parametrize(
    ("skeleton", "joined"), [([[1, 3]], (1, 0)), ([[2, 1]], (0, 1)), (None, (1, 1)), ([[1, 9]], (1, 1))]
)
def test_keypoints_are_joined_as_their_file_says_else_in_a_ring(skeleton, joined, tmp_path):
    source = FORMATS["keypoints"](tmp_path)
    document = json.loads(source.annotations.read_text())
    for category in document["categories"]:
        category |= {"keypoints": ["a", "b", "c"], **({"skeleton": skeleton} if skeleton else {})}
    document["annotations"] = document["annotations"][:1]  # in an image of 64 x 48
    document["annotations"][0] |= {"keypoints": [10, 10, 2, 10, 40, 2, 50, 10, 2], "num_keypoints": 3}
    source.annotations.write_text(json.dumps(document))

    dataset = open_dataset(spec_of("keypoints"), source, replace(grey(80), masks=False, keypoints=3))
    drawn = np.array(dataset.draw(Image.new("RGB", (64, 48)), [e | {"bbox": [0, 0, 0, 0]} for e in dataset.truth(0)]))

    factor = drawn.shape[1] // 64
    between = drawn[10 * factor, 30 * factor].any(), drawn[25 * factor, 10 * factor].any()  # of a and c, of a and b
    assert between == tuple(map(bool, joined))
    assert ("bad skeleton" in reported("keypoints", source)) == (skeleton == [[1, 9]])


def test_boxes_in_columns_are_the_entries_that_were_added():
    entry = {
        "image_id": 3,
        "category_id": 7,
        "bbox": [1.5, 2.0, 3.0, 4.0],
        "area": 12.0,
        "iscrowd": 0,
        "is_group_of": 1,
    }
    columns = Columns()
    for number in range(3):
        columns.append(entry | {"category_id": number})

    assert list(columns) == [entry | {"id": number + 1, "category_id": number} for number in range(3)]
    assert columns[1:] == list(columns)[1:]
    assert (columns[-1], len(columns)) == (list(columns)[-1], 3)
    with pytest.raises(IndexError):
        columns[3]


class TestVoc:
    @pytest.mark.parametrize(
        ("lists", "split", "read", "unread"),
        [
            ("2007/trainval 2012/train 2012/val", "train", "2012/train", "VOC2007"),
            ("2007/trainval 2012/train 2012/val 2012/trainval", "train", "2012/train", "VOC2007"),
            ("2007/trainval 2012/train 2012/val 2012/trainval", "trainval", "2012/trainval", "VOC2007"),
            ("2007/trainval 2007/test 2012/train 2012/val", "train", "2007/trainval", "VOC2012"),
            ("2007/trainval 2007/test", "val", "2007/test", None),
        ],
    )
    def test_splits_are_of_one_set_and_another_year_is_told(self, lists, split, read, unread, tmp_path, capsys):
        for name in lists.split():
            year, _, one = name.partition("/")
            file = tmp_path / f"VOC{year}/ImageSets/Main/{one}.txt"
            for folder in (file.parent, tmp_path / f"VOC{year}/JPEGImages", tmp_path / f"VOC{year}/Annotations"):
                folder.mkdir(parents=True, exist_ok=True)
            file.write_text(name.replace("/", "_"))

        check_cli([str(tmp_path), "--kind", "voc", "--split", split])

        told = capsys.readouterr()
        assert f"{read.replace('/', '_')}.xml" in told.out + told.err
        warned = [line for line in told.err.splitlines() if "is not read" in line]
        assert [str(unread) in line for line in warned] == [True] * (unread is not None)

    def test_both_years_are_one_set(self, tmp_path):
        for year in ("2007", "2012"):  # names of images are the same in both, their objects are not
            FORMATS["voc"](tmp_path / f"VOC{year}")
            lists = tmp_path / f"VOC{year}/ImageSets/Main"
            (lists / "trainval.txt").write_text("b\n" if year == "2007" else "a\nb\n")
            (lists / "test.txt").write_text("a\n")

        splits = splits_in(tmp_path, spec_of("voc"))

        files = {split: [info.file_name for info in opened("voc", source).infos] for split, source in splits.items()}
        assert files["train"] == ["VOC2007/JPEGImages/b.jpg", "VOC2012/JPEGImages/a.jpg", "VOC2012/JPEGImages/b.jpg"]
        assert files["val"] == files["test"] == ["VOC2007/JPEGImages/a.jpg"]
        found = opened("voc", splits["train"])
        same({"a": found.sample(1, 0).target}, {"a": targets(opened("voc", splits["val"]))["a"]})
        assert command_of(splits["train"], spec_of("voc")).endswith(f"{tmp_path} --split train --kind voc")
        assert check_cli([str(tmp_path), "--kind", "voc"]) == 0

    def test_difficult_objects_are_learned_where_asked_for(self, tmp_path):
        source = FORMATS["voc"](tmp_path)

        assert [len(t["labels"]) for t in targets(opened("voc", source, difficult="learned")).values()] == [2, 2, 0]

    def test_edges_are_taken_as_they_stand_where_asked_for(self, tmp_path):
        source = FORMATS["voc"](tmp_path)

        box = read_document(spec_of("voc", inclusive=False), source)["annotations"][0]["bbox"]

        assert box == [9.0, 9.0, 19.0, 15.0]

    def test_classes_are_those_of_all_files_beside_a_list(self, tmp_path):
        source = FORMATS["voc"](tmp_path)
        source.annotations.write_text("b -1\nc 1\na 1\n")
        (tmp_path / "Annotations/z.xml").write_text("<annotation><object><name>ant</name></object></annotation>")

        dataset = opened("voc", source)

        assert [c["name"] for c in dataset.classes] == ["ant", "cat", "dog"]
        assert [stem(info) for info in dataset.infos] == ["c", "a"]


def test_broken_images_are_left_out_where_asked_for_and_told(tmp_path, caplog):
    source = FORMATS["yolo"](tmp_path)
    (source.images / "b.jpg").write_bytes(b"no image")

    dataset = opened("yolo", source, broken_images="skip")

    assert [stem(info) for info in dataset.infos] == ["a", "c"]
    assert "1 x broken image" in caplog.text


def test_a_head_that_learns_masks_says_whose_are_missing(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt line 1 has a box and no mask"):
        opened("yolo", FORMATS["yolo"](tmp_path), masks=True)


class TestOnePath:
    def test_data_yaml_names_both_splits(self, tmp_path):
        source = FORMATS["yolo"](tmp_path)

        for path in (tmp_path, tmp_path / "data.yaml"):
            splits = splits_in(path, spec_of("yolo"))
            assert set(splits) == {"train", "val"}
            same(targets(opened("yolo", splits["val"])), targets(opened("yolo", source)))

    @pytest.mark.parametrize("kind", ["voc", "crowdhuman", "openimages", "cityscapes"])
    def test_a_folder_laid_out_as_the_download_is_enough(self, kind, tmp_path):
        source = FORMATS[kind](tmp_path)

        (found,) = splits_in(tmp_path, spec_of(kind)).items()

        assert found[0] == "train"
        same(targets(opened(kind, found[1])), targets(opened(kind, source)))

    @pytest.mark.parametrize(
        ("kind", "path", "asked", "said"),
        [
            ("yolo", "data.yaml", "coco", r"looked for annotations/instances_train2017\.json .*\. It looks like --kind yolo"),
            ("yolo", "labels/train images/train", "coco", r"wants a file with .*\. It looks like --kind yolo"),
            ("voc", ".", "coco", r"no data of kind coco in it; .*\. It looks like --kind voc"),
            ("voc", ".", "yolo", r"no data of kind yolo in it; looked for labels/train, or a data\.yaml\. It looks like --kind voc"),
            ("crowdhuman", "annotation_train.odgt", "coco", r"the folder of their images, too: .*\. It looks like --kind crowdhuman"),
            ("crowdhuman", "annotation_train.odgt Images", "coco", r"train\.odgt: not complete JSON .*\. It looks like --kind crowdhuman"),
            ("openimages", ".", "coco", r"\. It looks like --kind openimages"),
            ("cityscapes", "gtFine/train leftImg8bit/train", "voc", r"It looks like --kind cityscapes|no XML files"),
            ("cityscapes", "gtFine", "cityscapes", r"no data of kind cityscapes in it; looked for gtFine/train\. Give annotations"),
            ("voc", "..", "voc", r"no data of kind voc in it; .*\. .*/data has such"),
        ],
    )  # fmt: skip
    def test_the_kind_that_a_path_looks_like_is_said(self, kind, path, asked, said, tmp_path, capsys):
        FORMATS[kind](tmp_path / "data")

        assert check_cli([*(str(tmp_path / "data" / one) for one in path.split()), "--kind", asked]) > 0

        assert re.search(said, capsys.readouterr().err)

    @pytest.mark.parametrize(
        ("said", "answer"),
        [
            ("train: images/trian", r"data\.yaml: train is not there: .*/images/trian$"),
            (
                "path: /gone\ntrain: images/trian",
                r"data\.yaml: train is not there: .*/images/trian \(path: /gone is no folder here",
            ),
            ("train: images/train\nvalid: images/gone", "3 images"),  # nobody asked for val
            ("valid: images/train", r"--split train: .* has val"),
        ],
    )
    def test_a_split_of_data_yaml_that_is_not_there_is_named_with_it(self, said, answer, tmp_path, capsys):
        FORMATS["yolo"](tmp_path)
        (tmp_path / "data.yaml").write_text(f"{said}\nnames: [cat, dog]\n")

        check_cli([str(tmp_path / "data.yaml"), "--kind", "yolo"])

        told = capsys.readouterr()
        assert re.search(answer, (told.out + told.err).strip(), re.MULTILINE)

    def test_annotations_without_the_folder_of_their_images_say_so(self, tmp_path):
        FORMATS["lvis"](tmp_path / "lvis" / "annotations")

        with pytest.raises(DataError, match=r"lvis_v1_train\.json is there, the folder of its images is not: .*coco"):
            splits_in(tmp_path, spec_of("lvis"))

    def test_what_is_not_there_is_named(self, tmp_path):
        (tmp_path / "data.yaml").write_text("train: [train.txt, 7]\n")
        with pytest.raises(
            DataError, match=r"train has '7'; a folder of images, a \.txt with a path in every line, or"
        ):
            splits_in(tmp_path, spec_of("yolo"))
        (tmp_path / "data.yaml").write_text("train: train.txt\nnames: [cat]\n")
        with pytest.raises(DataError, match=r"list of images not found: .*/train\.txt"):
            opened("yolo", splits_in(tmp_path, spec_of("yolo"))["train"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_sheet_shows_the_annotations(kind, tmp_path, capsys):
    source = FORMATS[kind](tmp_path)
    names = ["--names", str(source.names)] if source.names else []
    sheet = tmp_path / "new" / "sheet.png"

    status = check_cli([str(source.annotations), str(source.images), "--kind", kind, *names, "--sheet", str(sheet)])

    assert status == 0
    assert f"{2 if kind == 'openimages' else 3} images drawn" in capsys.readouterr().err
    with Image.open(sheet) as drawn:
        colours = np.array(drawn).reshape(-1, 3)
    plain = np.concatenate(
        [np.array(Image.open(path).convert("RGB")).reshape(-1, 3) for path in source.images.rglob("[abc]*.*g")]
    )
    assert (
        len({tuple(c) for c in colours.tolist()} - {tuple(c) for c in plain.tolist()}) > 1
    )  # boxes and names, besides pixels


def test_a_sheet_is_a_picture(tmp_path, capsys):
    source = FORMATS["yolo"](tmp_path)

    assert (
        check_cli([str(source.images), str(source.images), "--kind", "yolo", "--sheet", str(tmp_path / "x.doc")]) == 1
    )
    assert "x.doc: a picture ends in .jpg or .png" in capsys.readouterr().err


def test_the_converter_writes_over_nothing_unasked(tmp_path, capsys):
    FORMATS["yolo"](tmp_path / "data")
    out = tmp_path / "coco.json"
    out.write_text("mine")
    command = [str(tmp_path / "data" / "data.yaml"), "--kind", "yolo", "-o", str(out)]

    assert convert_cli(command) == 2
    assert "--overwrite writes over it" in capsys.readouterr().err
    assert out.read_text() == "mine"

    assert convert_cli([*command, "--overwrite", "--split", "val", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["annotations"] == 3
    assert len(open_dataset(CocoSpec(), Source(out, tmp_path / "data/images/train"), grey(64))) == 3


def test_what_has_no_boxes_is_not_converted(tmp_path, capsys):
    images(tmp_path / "ant")
    images(tmp_path / "bee")

    assert convert_cli([str(tmp_path), "--kind", "imagenet", "-o", str(tmp_path / "x.json")]) == 1
    assert "have no boxes; only detection data have" in capsys.readouterr().err


def test_the_check_says_what_objects_ask_of_a_row(tmp_path, capsys):
    FORMATS["yolo"](tmp_path)

    status = check_cli([str(tmp_path), "--kind", "yolo", "--row", "mask_rcnn_piip_tsb_1120_896_448_1x"])

    out = capsys.readouterr().out
    assert status == 0
    # a: 64 x 48 to 896 x 672: 14 x; boxes of 17.9 and 26.8 become 250 and 376; b: 40 x 80 to 560 x 1120: 14 x, 34.6 to 485
    assert "deit_tiny_patch16_224.fb_in1k at 1120: objects of 275, 376, 463 pixels" in out
    assert "deit3_base_patch16_224.fb_in22k_ft_in1k at 448: objects of 110, 150, 185 pixels" in out
    assert "6.9, 9.4, 12 patches of 16; 0% under one" in out
