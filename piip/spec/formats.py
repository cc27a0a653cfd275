"""The formats of detection data that people have beside COCO's, one class each."""

from dataclasses import replace
from typing import ClassVar, Literal

from piip.contracts import Score
from piip.spec.detection import KEYPOINT_AP, DetectionSpec, by_size
from piip.spec.places import DataName, Places

KEYPOINT_DETAILS = (*by_size(KEYPOINT_AP, ("medium", "large")), *DetectionSpec.details)
"""Small objects have no keypoints in COCO's rules."""
LVIS_BOX_AP, LVIS_MASK_AP = Score("lvis/box_ap", "box AP"), Score("lvis/mask_ap", "mask AP")
_LISTS = "VOCdevkit/VOC{}/ImageSets/Main"


def by_frequency(score: Score) -> tuple[Score, ...]:
    """A score of LVIS's kind over its rare, common and frequent classes."""
    return tuple(
        replace(score, name=score.name + word[0], label=f"{score.label} {word}")
        for word in ("rare", "common", "frequent")
    )


class YoloSpec(DetectionSpec):
    """YOLO's folders: a text file an image, a line an object: its class and its box or polygon in parts of the image's sides."""

    holds: ClassVar[str] = (
        "YOLO labels, a text file for each image, named as it (or a list of images, a path in every line)"
    )
    places: ClassVar[dict[str, Places]] = {
        "yolo": Places("yolo/labels/{split}", "yolo/images/{split}", "yolo/data.yaml", either=True),
    }

    known_by: ClassVar[tuple[str, ...]] = ("*.yaml", "*.yml", "labels")
    keypoint_scores: ClassVar[tuple[Score, ...]] = (KEYPOINT_AP,)
    details: ClassVar[tuple[Score, ...]] = KEYPOINT_DETAILS

    kind: Literal["yolo"] = "yolo"
    name: DataName = "yolo"
    """`yolo` (under PIIP_DATA); any other: what you call your own files."""


class VocSpec(DetectionSpec):
    """PASCAL VOC: an XML an image, and lists of images (ImageSets) where not all of a folder's are meant."""

    known_by: ClassVar[tuple[str, ...]] = ("VOCdevkit", "VOC20??", "ImageSets", "JPEGImages", "Annotations", "*.xml")
    holds: ClassVar[str] = (
        "XML files, or a list of their names (ImageSets/Main/train.txt) beside the folder Annotations"
    )
    places: ClassVar[dict[str, Places]] = {
        "voc0712": Places(
            f"{_LISTS.format(2007)}/{{voc}}.txt", "VOCdevkit", "VOCdevkit/names.txt", either=True,
            more=tuple((split, f"{_LISTS.format(2012)}/trainval.txt") for split in ("train", "trainval")),
        ),
        "voc2007": Places(f"{_LISTS.format(2007)}/{{voc}}.txt", "VOCdevkit/VOC2007/JPEGImages", "VOCdevkit/names.txt", either=True),
        "voc2012": Places(f"{_LISTS.format(2012)}/{{split}}.txt", "VOCdevkit/VOC2012/JPEGImages", "VOCdevkit/names.txt", either=True),
    }  # fmt: skip

    scores: ClassVar[tuple[Score, ...]] = (
        Score("voc/box_ap50", "VOC AP50"),
        Score("voc/box_ap50_11point", "AP50 of 11 points"),
    )
    details: ClassVar[tuple[Score, ...]] = ()

    kind: Literal["voc"] = "voc"
    name: DataName = "voc2012"
    """`voc2007` (trainval and test), `voc2012` (train and val), `voc0712` (trainval of both, test of 2007) under PIIP_DATA; any other: what
    you call your own files."""
    difficult: Literal["ignored", "learned"] = "ignored"
    """Objects marked difficult: not learned, or learned as the others. Scored they never are, as in VOC."""
    inclusive: bool = True
    """Boxes name their first and last pixel, counted from 1, as VOC's do; False: edges, counted from 0 (of some tools)."""


class LvisSpec(DetectionSpec):
    """LVIS v1: COCO's JSON with 1203 classes, of which only some are annotated in each image."""

    known_by: ClassVar[tuple[str, ...]] = ("lvis_v1_*.json",)
    holds: ClassVar[str] = "LVIS v1 JSON, with the lists images, annotations and categories"
    places: ClassVar[dict[str, Places]] = {"lvis": Places("lvis/annotations/lvis_v1_{split}.json", "coco")}

    scores: ClassVar[tuple[Score, ...]] = (LVIS_BOX_AP, LVIS_MASK_AP)
    details: ClassVar[tuple[Score, ...]] = (
        *by_frequency(LVIS_BOX_AP), *by_size(LVIS_BOX_AP), *by_frequency(LVIS_MASK_AP), *by_size(LVIS_MASK_AP),
    )  # fmt: skip

    kind: Literal["lvis"] = "lvis"
    name: DataName = "lvis"
    """`lvis` (under PIIP_DATA, its images in coco/train2017 and coco/val2017); any other: what you call your own files."""


class CrowdHumanSpec(DetectionSpec):
    """CrowdHuman: a line of JSON an image, with three boxes a person: all of the body, what is seen of it, the head."""

    known_by: ClassVar[tuple[str, ...]] = ("*.odgt",)
    holds: ClassVar[str] = "CrowdHuman's odgt, a JSON object in every line"
    places: ClassVar[dict[str, Places]] = {
        "crowdhuman": Places("crowdhuman/annotation_{split}.odgt", "crowdhuman/Images")
    }

    scores: ClassVar[tuple[Score, ...]] = (
        Score("crowdhuman/box_ap50", "person AP50"), Score("crowdhuman/mr", "miss rate", "min"), Score("crowdhuman/ji", "Jaccard index"),
    )  # fmt: skip
    details: ClassVar[tuple[Score, ...]] = ()

    kind: Literal["crowdhuman"] = "crowdhuman"
    name: DataName = "crowdhuman"
    """`crowdhuman` (under PIIP_DATA); any other: what you call your own files."""
    box: Literal["fbox", "vbox", "hbox"] = "fbox"
    """Which of a person's boxes is an object: full, visible, head."""


class OpenImagesSpec(DetectionSpec):
    """Open Images: CSV files of boxes in parts of the image's sides, of class names and of a hierarchy of classes."""

    known_by: ClassVar[tuple[str, ...]] = ("class-descriptions*.csv", "*-annotations-bbox.csv")
    holds: ClassVar[str] = "Open Images' boxes as CSV, with the columns ImageID, LabelName, XMin, XMax, YMin, YMax"
    places: ClassVar[dict[str, Places]] = {
        "openimages": Places(
            "openimages/annotations/{split}-annotations-bbox.csv", "openimages/{split}",
            "openimages/annotations/class-descriptions-boxable.csv",
        )
    }  # fmt: skip

    scores: ClassVar[tuple[Score, ...]] = (Score("openimages/box_ap50", "Open Images AP50"),)
    details: ClassVar[tuple[Score, ...]] = ()

    kind: Literal["openimages"] = "openimages"
    name: DataName = "openimages"
    """`openimages` (under PIIP_DATA); any other: what you call your own files."""
    groups: Literal["ignored", "learned"] = "ignored"
    """Boxes of groups (IsGroupOf): neither learned nor wrong where something is found in them, or objects as the others."""


class CityscapesSpec(DetectionSpec):
    """Cityscapes' folders: images below leftImg8bit, and below gtFine maps of instances, class * 1000 + number in every pixel."""

    known_by: ClassVar[tuple[str, ...]] = ("gtFine", "leftImg8bit", "*_instanceIds.png")
    holds: ClassVar[str] = "instance maps, a *_instanceIds.png for each image"
    places: ClassVar[dict[str, Places]] = {
        "cityscapes": Places("cityscapes/gtFine/{split}", "cityscapes/leftImg8bit/{split}", "cityscapes/classes.txt")
    }

    kind: Literal["cityscapes"] = "cityscapes"
    name: DataName = "cityscapes"
    """`cityscapes` (under PIIP_DATA); any other: what you call your own files."""


class KeypointsSpec(DetectionSpec):
    """COCO's JSON of persons with keypoints (person_keypoints_*.json), or a user's own with keypoints of one class or more."""

    known_by: ClassVar[tuple[str, ...]] = ("person_keypoints_*.json",)
    holds: ClassVar[str] = "COCO-format JSON with keypoints"
    places: ClassVar[dict[str, Places]] = {
        "coco": Places("coco/annotations/person_keypoints_{split}2017.json", "coco/{split}2017"),
        "demo": Places("demo/annotations/keypoints_{split}.json", "demo/{split}"),
    }
    keypoint_scores: ClassVar[tuple[Score, ...]] = (KEYPOINT_AP,)
    details: ClassVar[tuple[Score, ...]] = KEYPOINT_DETAILS

    kind: Literal["keypoints"] = "keypoints"
    name: DataName = "coco"
    """`coco` (under PIIP_DATA), `demo` (made under PIIP_HOME); any other: what you call your own files."""
