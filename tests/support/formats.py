"""Detection data of every format, with the same objects: three images, two classes, one object that is neither learned nor wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from piip.data.sources import Source

NAMES = ["cat", "dog"]
SIZES = {"a": (64, 48), "b": (40, 80), "c": (50, 50)}
"""Width and height; c is without objects."""
OBJECTS = {"a": [(1, (8, 8, 20, 16)), (2, (30, 12, 24, 30))], "b": [(2, (4, 8, 30, 40))], "c": []}
"""Label from 1, box x, y, width, height."""
IGNORED = ("b", 1, (2, 60, 20, 16))


def images(folder: Path, ending: str = ".jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, (width, height)) in enumerate(SIZES.items()):
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}{ending}")


def yolo(root: Path) -> Source:
    """Images and labels side by side, names in data.yaml; the first object is a polygon of its box. YOLO ignores nothing."""
    images(root / "images" / "train")
    labels = root / "labels" / "train"
    labels.mkdir(parents=True)
    for name, objects in OBJECTS.items():
        width, height = SIZES[name]
        lines = [
            f"{label - 1} {(x + w / 2) / width!r} {(y + h / 2) / height!r} {w / width!r} {h / height!r}"
            for label, (x, y, w, h) in objects
        ]
        if objects:
            (labels / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/train\nnames: {json.dumps(NAMES)}\n")
    return Source(labels, root / "images" / "train")


def voc(root: Path) -> Source:
    """A list, XML files and images; the size of c is not said."""
    images(root / "JPEGImages")
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name, objects in OBJECTS.items():
        width, height = SIZES[name] if name != "c" else (0, 0)
        entries = "".join(
            f"<object><name>{NAMES[label - 1]}</name><difficult>{difficult}</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for label, (x, y, w, h), difficult in [
                *((*one, 0) for one in objects), *([(*IGNORED[1:], 1)] if name == IGNORED[0] else []),
            ]
        )  # fmt: skip
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.jpg</filename>{size}{entries}</annotation>"
        )
    (root / "ImageSets/Main/train.txt").write_text("a\nb\nc\n")
    return Source(root / "ImageSets/Main/train.txt", root / "JPEGImages")


def crowdhuman(root: Path) -> Source:
    """One class, so all objects are of it."""
    images(root / "Images")

    def entry(box, *, tag="person", **more):
        return {"tag": tag, "fbox": list(box), "vbox": list(box), "hbox": list(box), **more}

    lines = []
    for name, objects in OBJECTS.items():
        boxes = [entry(box, extra={"ignore": 0}) for _, box in objects]
        boxes += [entry(IGNORED[2], tag="mask", extra={"ignore": 1})] if name == IGNORED[0] else []
        lines.append(json.dumps({"ID": name, "gtboxes": boxes}))
    (root / "annotation_train.odgt").write_text("\n".join(lines) + "\n")
    return Source(root / "annotation_train.odgt", root / "Images")


def openimages(root: Path) -> Source:
    """Images without a row are not of the split: c has none and is left out."""
    images(root / "train")
    (root / "annotations").mkdir()
    (root / "annotations/class-descriptions-boxable.csv").write_text("/m/01yrx,cat\n/m/0bt9lr,dog\n")
    rows = [
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    ]
    for name, label, (x, y, w, h), group in [
        *((name, *one, 0) for name, objects in OBJECTS.items() for one in objects), (*IGNORED, 1),
    ]:  # fmt: skip
        width, height = SIZES[name]
        sides = ",".join(repr(side) for side in (x / width, (x + w) / width, y / height, (y + h) / height))
        rows.append(f"{name},verification,{('/m/01yrx', '/m/0bt9lr')[label - 1]},1,{sides},0,0,{group},0,0")
    (root / "annotations/train-annotations-bbox.csv").write_text("\n".join(rows) + "\n")
    return Source(root / "annotations/train-annotations-bbox.csv", root / "train")


def coco_document(*, file_names: bool = True) -> dict:
    entries = []
    ids = {name: k for k, name in enumerate(SIZES, start=1)}
    for name, label, (x, y, w, h), crowd in [
        *((name, *one, 0) for name, objects in OBJECTS.items() for one in objects), (*IGNORED, 1),
    ]:  # fmt: skip
        entries.append(
            {
                "id": len(entries) + 1,
                "image_id": ids[name],
                "category_id": label,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": crowd,
            }
        )
        entries[-1]["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    named = [{"id": ids[name], "width": width, "height": height} for name, (width, height) in SIZES.items()]
    for image, name in zip(named, SIZES, strict=True):
        if file_names:
            image["file_name"] = f"train2017/{name}.jpg"
    return {
        "images": named,
        "annotations": entries,
        "categories": [{"id": k, "name": n} for k, n in enumerate(NAMES, start=1)],
    }


def lvis(root: Path) -> Source:
    """Images named by their URL; LVIS knows no crowds."""
    images(root / "train2017")
    document = coco_document(file_names=False)
    document["annotations"] = [entry for entry in document["annotations"] if not entry["iscrowd"]]
    for entry in document["annotations"]:
        del entry["iscrowd"]
    for image, name in zip(document["images"], SIZES, strict=True):
        image |= {"coco_url": f"http://images.cocodataset.org/train2017/{name}.jpg", "neg_category_ids": [1]}
        image["not_exhaustive_category_ids"] = []
    for category in document["categories"]:
        category["frequency"] = "f"
    (root / "lvis_v1_train.json").write_text(json.dumps(document))
    return Source(root / "lvis_v1_train.json", root)


def keypoints(root: Path) -> Source:
    images(root / "train2017")
    document = coco_document()
    for category in document["categories"]:
        category["keypoints"] = ["nose", "tail"]
    for entry in document["annotations"]:
        x, y, w, h = entry["bbox"]
        entry |= {"keypoints": [x, y, 2, x + w, y + h, 1], "num_keypoints": 2}
    (root / "person_keypoints_train2017.json").write_text(json.dumps(document))
    return Source(root / "person_keypoints_train2017.json", root)


def cityscapes(root: Path) -> Source:
    """cat is 24, dog 26 in a file of names."""
    images(root / "leftImg8bit/train/town", "_leftImg8bit.png")
    folder = root / "gtFine/train/town"
    folder.mkdir(parents=True)
    for name, (width, height) in SIZES.items():
        numbers = np.zeros((height, width), dtype=np.uint16)
        for number, (label, (x, y, w, h)) in enumerate(OBJECTS[name]):
            numbers[y : y + h, x : x + w] = (24, 26)[label - 1] * 1000 + number
        if name == IGNORED[0]:
            x, y, w, h = IGNORED[2]
            numbers[y : y + h, x : x + w] = 24
        Image.fromarray(numbers).save(folder / f"{name}_gtFine_instanceIds.png")
    (root / "classes.txt").write_text("24 cat\n26 dog\n")
    return Source(root / "gtFine/train", root / "leftImg8bit/train", root / "classes.txt")


FORMATS: dict[str, Callable[[Path], Source]] = {
    "yolo": yolo, "voc": voc, "crowdhuman": crowdhuman, "openimages": openimages, "lvis": lvis, "keypoints": keypoints,
    "cityscapes": cityscapes,
}  # fmt: skip
"""Kind of data -> writes it below a folder."""
