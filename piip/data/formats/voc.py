"""PASCAL VOC: an XML file an image, and lists of the images of a split.

VOC2012/Annotations/*.xml, VOC2012/JPEGImages/*.jpg, VOC2012/ImageSets/Main/train.txt: an id in every line (lists of one class have a
number behind it, -1 where the class is not there). A user's own: a folder of XML files, one of images. Boxes are the first and the last
pixel, counted from 1 (the development kit's documentation, section 4), so x is xmin - 1 and the width xmax - xmin + 1.
"""

import os
from pathlib import Path
from xml.etree import ElementTree

from piip.console import one_line
from piip.data.files import content, files_below, is_folder
from piip.data.formats.detected import ReadDataset
from piip.data.formats.photographs import images_below, note_unused
from piip.data.formats.reading import ReadDocument, Reading, number, shown
from piip.data.formats.voc_files import beside, files_of, folder_of_list, root_of
from piip.data.formats.voc_labels import Labels, known_names
from piip.data.sources import DataError, Source
from piip.data.text import is_text
from piip.metrics.voc import VocAP
from piip.spec import VocSpec


def read(source: Source, spec: VocSpec) -> ReadDocument:
    """The images that the list or the folder names, with their objects.

    Raises:
        DataError: No XML files, or a list that names none.
    """
    reading = Reading(source, line="object", skip=spec.broken_images == "skip")
    known = known_names(source, spec)
    labels = Labels(known)
    paths = images_below(reading, source.images)
    images = _by_name(paths, source.images)
    files = list(files_of(source))
    trees = ((file, _tree(reading, file)) for file in files)
    entries = [(file, tree) for file, tree in trees if tree is not None]
    names = [_image_name(tree, file, images, source) for file, tree in entries]
    if is_folder(source.annotations):  # of a list, what it does not name is not meant
        named = (images.get(file.stem) for file in files)  # broken ones, too
        note_unused(reading, paths, (*names, *filter(None, named)))
    sizes = reading.sizes([name for (_, tree), name in zip(entries, names, strict=True) if _size(tree) is None])
    for (file, tree), name in zip(entries, names, strict=True):
        if size := _size(tree) or sizes.get(name):
            reading.begin(file)
            image_id = reading.add_image(name, *size)
            for place, entry in enumerate(tree.iter("object"), start=1):
                _add(reading, place, image_id, entry, labels, spec)
    if known is None:
        _of_all(source, files, labels)
    reading.more(repr(labels.names).encode())
    return reading.document(labels.settled(reading.annotations))


class VocDataset(ReadDataset):
    """A split of PASCAL VOC."""

    reader = staticmethod(read)

    def metric(self) -> VocAP:
        """As VOC's development kit scores."""
        return VocAP(self.whole, self.image_ids)


def _by_name(paths: list[str], folder: Path) -> dict[str, str]:
    """Name without its ending, and whole name -> path below the folder."""
    names = [Path(path).relative_to(folder).as_posix() for path in paths]
    return {os.path.splitext(name)[0]: name for name in names} | {name: name for name in names}


def _tree(reading: Reading, file: Path) -> ElementTree.Element | None:
    try:
        content = reading.bytes_of(file)
    except DataError as error:
        reading.begin(file)
        reading.fault("annotations not found", None, f"{error}; the list names it")
        return None
    try:
        tree = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        reading.fault("broken XML", None, f"no complete XML ({error}; the file has {len(content)} bytes)")
        return None
    if tree.tag != "annotation":
        reading.fault("broken XML", None, f"its outermost element is <{tree.tag}>; <annotation> is wanted")
        return None
    return tree


def _image_name(tree: ElementTree.Element, file: Path, images: dict[str, str], source: Source) -> str:
    """The image of an XML file: that it names, or that is called as it; tools rename images and forget the XML."""
    below = beside(file, source)
    said = _text(tree, "filename").replace("\\", "/").rpartition("/")[2]
    said = said if is_text(said) else ""
    stem = file.relative_to(root_of(file, source)).with_suffix("")
    nested = f"{stem.parent.as_posix()}/" if stem.parent.name else ""  # images/a/1.jpg of xml/a/1.xml
    places = [f"{below}{folder}{name}" for folder in (nested, "") for name in (said, stem.name)]
    found = next((images[place] for place in places if place in images), None)
    return found or f"{below}{said or f'{file.stem}.jpg'}"


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    """Height and width as the file says; None where it says none, or nought, as some tools do."""
    sides = [number(_text(tree, f"size/{side}")) for side in ("height", "width")]
    height, width = (int(side) if side and side == int(side) and side > 0 else 0 for side in sides)
    return (height, width) if height and width else None


def _add(
    reading: Reading, place: int, image_id: int, entry: ElementTree.Element, labels: Labels, spec: VocSpec
) -> None:
    name, said = one_line(_text(entry, "name")), _text(entry, "difficult") or "0"
    corners = {side: number(_text(entry, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")}
    lacking = [f"{side} {shown(_text(entry, f'bndbox/{side}'))}" for side, value in corners.items() if value is None]
    if lacking:
        reading.fault("bad box", place, f"bndbox has {', '.join(lacking)}; four numbers are wanted")
    elif not name:
        reading.fault("object without name", place, "it has no name")
    elif said not in ("0", "1"):
        reading.fault("bad difficult", place, f"difficult is {shown(said)}; 0 or 1 is wanted")
    elif (label := labels.number(name)) is None:
        reading.fault("unknown category", place, f"{shown(name)} is none of the {len(labels.names)} classes")
    else:
        left, top, right, bottom = (value or 0.0 for value in corners.values())
        first = 1.0 if spec.inclusive else 0.0
        box = (left - first, top - first, right - left + first, bottom - top + first)
        if min(box[2:]) < 0:
            reading.fault(
                "bad box", place, f"it ends before it begins: x {left:g} to {right:g}, y {top:g} to {bottom:g}"
            )
            return
        ignored = said == "1" and spec.difficult == "ignored"
        reading.add(place, image_id, label, box, iscrowd=int(ignored), difficult=int(said))


def _of_all(source: Source, read_already: list[Path], labels: Labels) -> None:
    """Learns the classes of the folder's other files, too: a list's images need not have all of them."""
    if is_folder(source.annotations):
        return
    known = set(read_already)
    folders = dict.fromkeys(folder_of_list(file) for file in (source.annotations, *source.more))
    for path in (Path(path) for folder in folders for path in files_below(folder)):
        if path.suffix.lower() == ".xml" and path not in known:
            try:
                tree = ElementTree.fromstring(content(path))
            except (ElementTree.ParseError, ValueError, LookupError):
                continue  # none of this split; whose it is, is told of it
            for entry in tree.iter("object"):
                if name := one_line(_text(entry, "name")):
                    labels.number(name)


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
