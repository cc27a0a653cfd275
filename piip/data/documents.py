"""Detection data of any format as one COCO-shaped document: for who checks and converts; training opens a data set."""

from piip.data import classes_of
from piip.data.formats.coco import CocoDataset
from piip.data.formats.coco_json import Document
from piip.data.formats.reading import ReadDocument
from piip.data.sources import DataError, Source
from piip.spec import Data


def read_document(spec: Data, source: Source) -> Document:
    """A split of detection data as a COCO-shaped document, free of faults.

    Raises:
        DataError: Something is wrong with it, or it is not detection data.
    """
    dataset = classes_of(spec)[1]
    if not issubclass(dataset, CocoDataset):
        raise DataError(
            f"{source.annotations}: data for {spec.task} ({spec.kind}) have no boxes; only detection data have"
        )
    return dataset.document(source, spec)


def looked_at(spec: Data, source: Source) -> ReadDocument:
    """The same, with faults: of formats other than COCO's JSON."""
    return classes_of(spec)[1].reader(source, spec)
