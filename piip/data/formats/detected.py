"""Detection data of formats other than COCO's: whatever is read into a COCO-shaped document is trained and scored as COCO's."""

import logging
from abc import abstractmethod
from collections import Counter
from typing import Any

from piip.data.formats.coco import CocoDataset
from piip.data.formats.coco_json import collection_paused, require
from piip.data.formats.reading import ReadDocument, problems_of
from piip.data.sources import Source

log = logging.getLogger(__name__)


class ReadDataset(CocoDataset):
    """A split that a reader makes a document of; a kind of data names its reader, and the metric where it has one of its own."""

    @staticmethod
    @abstractmethod
    def reader(source: Source, spec: Any) -> ReadDocument:
        """All there is of a split, and what is wrong with it.

        Args:
            source: Its files.
            spec: Of the kind of data that is read.

        Raises:
            DataError: Nothing can be listed: no files, or none of this format.
        """

    @classmethod
    def document(cls, source: Source, spec: Any) -> ReadDocument:
        """As the reader gives it.

        Raises:
            DataError: With the first fatal problem, and how many there are.
        """
        with collection_paused():
            document = cls.reader(source, spec)
            require(
                source.annotations,
                problems_of(document),
                f"python -m piip.data.check {{path}} IMAGES --kind {spec.kind}",
            )
        for kind, count in Counter(problem.kind for problem in document.problems).items():
            first = next(problem.message for problem in document.problems if problem.kind == kind)
            log.warning("%d x %s, first: %s", count, kind, first)
        return document
