"""Looks at all of a data set of class folders: its images, and how they are shared out."""

from collections import Counter

from piip.contracts import Input
from piip.data.formats.folders import FolderDataset
from piip.data.problems import Looked, Problem, Seen
from piip.data.sources import Source
from piip.spec import ImageNetSpec


def look_at(source: Source, spec: ImageNetSpec) -> Looked:
    """Every image that cannot be used, and how many there are of a class.

    Raises:
        DataError: No classes, one alone, or one without images, so that nothing can be listed.
    """
    split = FolderDataset(source, spec, Input(224, (0, 0, 0), (1, 1, 1)), training=False)
    errors = (split.image_error(index) for index in range(len(split)))
    problems = ([Problem("broken image", str(error))] if error else [] for error in errors)
    sizes = Counter(split.labels).values()
    training = {"images": len(split), "classes": len(split.classes)}
    training |= {"images of the smallest class": min(sizes), "of the largest": max(sizes)}
    return Looked(len(split), len(split), len(split.classes), problems, Seen(training, {"images": len(split)}))
