"""What all kinds of data say: which data sets of it there are and where their files lie, what ranks runs, what is the user's own."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field

from piip.contracts import Score, Size
from piip.spec.base import Spec

FILES = (".json", ".odgt", ".csv", ".txt")
"""Endings of annotations that are one file."""
OWN = "custom"
"""The name of data of the user's own that have no other."""
DataName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,59}$")]


class Places(NamedTuple):
    """Where a named data set's files lie below its root.

    `{split}` is train or val, `{part}` training or validation, `{voc}` trainval or test.
    """

    annotations: str
    images: str
    names: str | None = None
    """The file that names the classes, where annotations do not."""
    either: bool = False
    """Whether a split's annotations may be a folder as well as a file, or a file as well as a folder."""
    more: tuple[tuple[str, str], ...] = ()
    """Splits, by name, that have a second file of annotations, and where."""

    @property
    def apart(self) -> bool:
        """Whether annotations lie elsewhere than images; class folders are both."""
        return self.annotations != self.images

    @property
    def one_file(self) -> bool:
        """Whether the annotations of a split are one file, not a folder."""
        return PurePath(self.annotations).suffix in FILES

    def refuses(self, *, folder: bool) -> bool:
        """Whether a split's annotations cannot be a folder, or a file."""
        return not self.either and folder == self.one_file


class DataSpec(Spec):
    """What all kinds of data say of themselves."""

    scores: ClassVar[tuple[Score, ...]]
    """The first ranks runs, all are shown."""
    keypoint_scores: ClassVar[tuple[Score, ...]] = ()
    """Scores of heads that find keypoints, which go before the others; empty: objects have no keypoints to learn."""
    details: ClassVar[tuple[Score, ...]] = ()
    """What tables show beside the scores, of the same evaluation, where it was logged: scores of a part of what is there."""
    places: ClassVar[dict[str, Places]] = {}
    """Name -> where its files lie. Data of any other name are the user's own."""
    task: ClassVar[str] = ""
    """What is learned from it, in the word people use."""
    holds: ClassVar[str] = ""
    """What its annotations hold, for who gives something else."""
    known_by: ClassVar[tuple[str, ...]] = ()
    """Names of files and folders (with * and ?) that people's data of this kind alone have."""

    def identity(self) -> dict[str, Any]:
        """As of any spec; but what people call their own data decides nothing: the digest of the files does (see `trial_key`)."""
        named = super().identity()
        return named if named["name"] in self.places else named | {"name": OWN}

    def view_sizes(self, resolution: int) -> list[Size]:
        """Height and width, padded, of each of several views that evaluation takes of an image; empty: it takes one, the image."""
        del resolution
        return []

    def reading(self, classes: Sequence[Mapping[str, Any]]) -> str:
        """How files are read, in a line, where people may take it otherwise; empty where they cannot.

        Args:
            classes: {"id": the files' number, "name"} in order of label.
        """
        del classes
        return ""
