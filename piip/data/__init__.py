"""Images and annotations: from files on disk to batches a model takes.

`classes_of` is the one place where a data set's spec chooses code; the files behind it import PyTorch, this one does not.
"""

from collections.abc import Sequence
from typing import Any, assert_never

from piip.contracts import Dataset, Format, Input
from piip.data.sources import Source
from piip.spec import (
    Ade20kSpec,
    CityscapesSpec,
    CocoSpec,
    CrowdHumanSpec,
    Data,
    ImageNetSpec,
    KeypointsSpec,
    LvisSpec,
    OpenImagesSpec,
    VocSpec,
    YoloSpec,
)


def classes_of(spec: Data) -> tuple[Any, Any]:
    """The classes behind a kind of data: its format, and its split."""
    match spec:
        case CocoSpec():
            from piip.data.formats import coco

            return coco.CocoFormat, coco.CocoDataset
        case Ade20kSpec():
            from piip.data.formats import ade20k

            return ade20k.Ade20kFormat, ade20k.Ade20kDataset
        case ImageNetSpec():
            from piip.data.formats import folders

            return folders.FolderFormat, folders.FolderDataset
        case YoloSpec():
            from piip.data.formats import coco_format, yolo

            return coco_format.CocoFormat, yolo.YoloDataset
        case VocSpec():
            from piip.data.formats import coco_format, voc

            return coco_format.CocoFormat, voc.VocDataset
        case LvisSpec():
            from piip.data.formats import coco_format, lvis

            return coco_format.CocoFormat, lvis.LvisDataset
        case CrowdHumanSpec():
            from piip.data.formats import coco_format, crowdhuman

            return coco_format.CocoFormat, crowdhuman.CrowdHumanDataset
        case OpenImagesSpec():
            from piip.data.formats import coco_format, openimages

            return coco_format.CocoFormat, openimages.OpenImagesDataset
        case CityscapesSpec():
            from piip.data.formats import cityscapes, coco_format

            return coco_format.CocoFormat, cityscapes.CityscapesDataset
        case KeypointsSpec():
            from piip.data.formats import coco_format, keypoints

            return coco_format.CocoFormat, keypoints.KeypointsDataset
        case _:
            assert_never(spec)


def open_format(spec: Data, wanted: Input, classes: Sequence[dict[str, Any]]) -> Format:
    """How images of a kind of data are prepared and results written, without its files.

    Args:
        spec: What the data are.
        wanted: What the network wants of an image.
        classes: In order of label, as a checkpoint has them.
    """
    return classes_of(spec)[0](spec, wanted, list(classes))


def open_dataset(
    spec: Data, source: Source, wanted: Input, *, training: bool = False, max_images: int | None = None
) -> Dataset:
    """A split of a data set.

    Args:
        spec: What the data are and how an image is prepared.
        source: Where the split's files are.
        wanted: What the network wants of an image.
        training: Targets and augmentation, or neither.
        max_images: Only the first so many.

    Raises:
        DataError: The files contradict themselves or are missing.
    """
    return classes_of(spec)[1](source, spec, wanted, training=training, max_images=max_images)
