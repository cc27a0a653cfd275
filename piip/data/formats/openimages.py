"""Open Images' boxes: CSV files with a row an object (storage.googleapis.com/openimages/web/download_v7.html).

    ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside

Numbers are parts of the image's sides. The image is ImageID.jpg, or with another ending that is there. The file of names has two columns
without a heading, /m/011k07,Tortoise; a category's number is its row there. Beside them may lie the hierarchy of classes
(bbox_labels_600_hierarchy.json) and the labels of whole
images (*-annotations-human-imagelabels-boxable.csv), which scores take into account. Groups (IsGroupOf) are regions, neither learned
nor wrong in scores, unless the spec says otherwise. Images of the folder without a row are not of the split: nobody says what is in them.
"""

from piip.data.files import stream
from piip.data.formats.detected import ReadDataset
from piip.data.formats.openimages_labels import names_of, note_verified, rows_of
from piip.data.formats.photographs import images_below, named, note_unused
from piip.data.formats.reading import ReadDocument, Reading, number, shown
from piip.data.sources import Source
from piip.metrics.openimages import OpenImagesAP
from piip.spec import OpenImagesSpec

SIDES = ("XMin", "XMax", "YMin", "YMax")
WANTED = ("ImageID", "LabelName", *SIDES)


def read(source: Source, spec: OpenImagesSpec) -> ReadDocument:
    """The images that rows are of, with their boxes; the file is gone through twice, row by row.

    Raises:
        DataError: No such file, other columns, or nobody says what the classes are.
    """
    reading = Reading(source, line="line", skip=spec.broken_images == "skip", columns=True)
    categories = names_of(source)
    numbers = {category["mid"]: category["id"] for category in categories}
    files = named(
        source.images, dict.fromkeys(row["ImageID"] for _, row in rows_of(source.annotations, WANTED) if row["ImageID"])
    )
    sizes = reading.sizes(list(files.values()))
    reading.begin(source.annotations)
    with stream(source.annotations) as lines:
        for line in lines:
            reading.more(line)
    reading.more(repr(categories).encode())
    ids = {image: reading.add_image(name, *sizes[name]) for image, name in files.items() if name in sizes}
    for place, row in rows_of(source.annotations, WANTED):
        image = row["ImageID"]
        if not image:
            reading.fault("row without image", place, "ImageID is empty")
        elif image in ids:
            _add(reading, place, ids[image], sizes[files[image]], row, numbers, spec)
    note_verified(reading, ids, numbers)
    note_unused(reading, images_below(reading, source.images), files.values())
    return reading.document(categories)


class OpenImagesDataset(ReadDataset):
    """A split of Open Images."""

    reader = staticmethod(read)

    def metric(self) -> OpenImagesAP:
        """As the Open Images challenge scores."""
        return OpenImagesAP(self.whole, self.image_ids)


def _add(
    reading: Reading, place: int, image_id: int, size: tuple[int, int], row: dict[str, str], numbers: dict[str, int],
    spec: OpenImagesSpec,
) -> None:  # fmt: skip
    sides = [number(row[name]) for name in SIDES]
    label, group = numbers.get(row["LabelName"]), row.get("IsGroupOf", "0")
    if label is None:
        reading.fault(
            "unknown category", place, f"LabelName is {shown(row['LabelName'])}, which is not in the file of names"
        )
    elif any(value is None or not -0.01 <= value <= 1.01 for value in sides):
        said = ", ".join(f"{name} {shown(row[name])}" for name in SIDES)
        reading.fault("bad box", place, f"{said}; four numbers within 0..1 are wanted")
    elif group not in ("0", "1", "-1", ""):
        reading.fault("bad group", place, f"IsGroupOf is {shown(group)}; 0, 1 or -1 (nobody knows) is wanted")
    else:
        left, right, top, bottom = (value or 0.0 for value in sides)
        if right < left or bottom < top:
            reading.fault(
                "bad box", place, f"it ends before it begins: x {left:g} to {right:g}, y {top:g} to {bottom:g}"
            )
            return
        height, width = size
        box = (left * width, top * height, (right - left) * width, (bottom - top) * height)
        is_group = group == "1"
        reading.add(
            place, image_id, label, box, iscrowd=int(is_group and spec.groups == "ignored"), is_group_of=int(is_group)
        )
