"""CrowdHuman's odgt: a JSON object a line, of one image each.

    {"ID": "273271,c9db000d5146c15", "gtboxes": [{"tag": "person", "fbox": [x, y, w, h], "vbox": .., "hbox": ..}, ..]}

The image is ID.jpg, or ID with another ending that is there. What has another tag than person (mask: crowds, statues, reflections) or is
to be ignored is a region that is neither learned nor wrong in scores. Full boxes reach out of the image where a person does: learned as
far as they are inside.
"""

import json
from typing import Any

from piip.data.formats.coco_shapes import is_number
from piip.data.formats.detected import ReadDataset
from piip.data.formats.photographs import named
from piip.data.formats.reading import ReadDocument, Reading, shown
from piip.data.sources import DataError, Source
from piip.data.text import is_text
from piip.metrics.crowdhuman import CrowdHumanScore
from piip.spec import CrowdHumanSpec

PERSON = [{"id": 1, "name": "person"}]
BOXES = ("fbox", "vbox", "hbox")
TAGS = ("person", "mask")


def read(source: Source, spec: CrowdHumanSpec) -> ReadDocument:
    """The images of an odgt file, with their persons and ignored regions.

    Raises:
        DataError: No such file, or no line of it is an image.
    """
    reading = Reading(source, skip=spec.broken_images == "skip")
    lines = list(_lines(reading))
    files = named(source.images, dict.fromkeys(name for _, name, _ in lines))
    lines = [(place, files[name], entries) for place, name, entries in lines]
    if not lines:
        raise DataError(
            f"{source.annotations}: no line is an image: a JSON object with ID and gtboxes is wanted in every line"
        )
    sizes = reading.sizes(list(dict.fromkeys(name for _, name, _ in lines)))
    known: dict[str, int] = {}
    for place, name, entries in lines:
        if name in known:
            reading.fault("image twice", place, f"{name} is in line {known[name]} already")
        elif name in sizes:
            known[name] = place
            image_id = reading.add_image(name, *sizes[name])
            for entry in entries:
                _add(reading, place, image_id, entry, spec.box)
    return reading.document(PERSON, usual=["box over the edge"] if spec.box == "fbox" else ())


class CrowdHumanDataset(ReadDataset):
    """A split of CrowdHuman."""

    reader = staticmethod(read)

    def metric(self) -> CrowdHumanScore:
        """As CrowdHuman's authors score."""
        return CrowdHumanScore(self.whole, self.image_ids)


def _lines(reading: Reading) -> Any:
    """Number, ID and boxes of each line that is an image."""
    for place, line in enumerate(reading.text_of(reading.source.annotations).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            said = json.loads(line)
        except (ValueError, RecursionError) as error:
            reading.fault("broken line", place, f"no complete JSON ({error})")
            continue
        given, entries = (said.get(key) for key in ("ID", "gtboxes")) if isinstance(said, dict) else (None, None)
        if not is_text(given) or not given or not isinstance(entries, list):
            reading.fault(
                "broken line",
                place,
                f"ID is {shown(given)} and gtboxes a {type(entries).__name__}; wanted: a name, a list",
            )
            continue
        yield place, str(given), entries


def _add(reading: Reading, place: int, image_id: int, entry: Any, which: str) -> None:
    box = entry.get(which) if isinstance(entry, dict) else None
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))) or min(box[2:]) < 0:
        reading.fault("bad box", place, f"{which} is {shown(box)}; four numbers x, y, width, height >= 0 are wanted")
        return
    tag = entry.get("tag")
    if tag not in TAGS:
        reading.fault(
            "unknown tag", place, f"tag is {shown(tag)}; person or mask is known: an ignored region", fatal=False
        )
    notes = entry.get("head_attr" if which == "hbox" else "extra")
    ignored = isinstance(notes, dict) and notes.get("ignore") == 1
    others = {name: entry[name] for name in BOXES if name in entry}
    reading.add(place, image_id, 1, box, iscrowd=int(ignored or tag != "person"), **others)
