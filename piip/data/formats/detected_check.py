"""Looks at all of detection data of a format other than COCO's: what its reader finds, what all formats share, every image."""

from itertools import chain

from piip.data.documents import looked_at
from piip.data.formats.coco_check import counted, image_files
from piip.data.formats.reading import problems_of
from piip.data.problems import Looked, Seen
from piip.data.sources import Source
from piip.spec import Data


def look_at(source: Source, data: Data) -> Looked:
    """Every problem.

    Raises:
        DataError: Nothing can be listed: no files, or none of this format.
    """
    document, seen = looked_at(data, source), Seen()
    found = list(problems_of(document))
    images, annotations, categories = (len(document[part]) for part in ("images", "annotations", "categories"))
    problems = chain([found], counted(document, seen, found), image_files(document, source.images))
    return Looked(images, annotations, categories, problems, seen)
