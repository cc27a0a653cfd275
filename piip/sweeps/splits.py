"""What planning knows of data: each split is opened once, whatever the number of rows, and only this is kept of it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from piip import home
from piip.catalogue.preflight import sources_of
from piip.data import open_dataset
from piip.data.cut_away import cut_away
from piip.data.decoding import refuse_broken
from piip.data.formats.coco import CocoDataset
from piip.data.loader import steps_per_epoch
from piip.data.samples import ImageInfo
from piip.data.scorable import refuse_unscored
from piip.data.sources import DataError, Source
from piip.spec import ExperimentSpec

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""A data set's spec and a split."""


@dataclass(frozen=True)
class Split:
    """A split that is there and, unless its spec says `skip`, whole."""

    source: Source
    classes: list[dict[str, Any]]
    digest: str
    infos: list[ImageInfo]

    def steps_per_epoch(self, batch_size: int) -> int:
        """Optimizer steps in which training sees it once."""
        return steps_per_epoch(self.infos, batch_size)

    def tags(self, name: str) -> dict[str, str]:
        """What a run says of it."""
        also = {f"data.{name}.names": str(self.source.names)} if self.source.names else {}
        if self.source.more:
            also[f"data.{name}.more"] = "\n".join(map(str, self.source.more))
        return also | {
            f"data.{name}.digest": self.digest,
            f"data.{name}.annotations": str(self.source.annotations),
            f"data.{name}.images": str(self.source.images),
            f"data.{name}.count": str(len(self.infos)),
        }


class Splits:
    """The data of a sweep's rows.

    Args:
        custom: The user's own files by split.
        max_eval_images: What is scored of validation, where that is not all of it.
    """

    def __init__(self, custom: Mapping[str, Source] | None = None, max_eval_images: int | None = None) -> None:
        self._custom, self._max_eval_images = custom, max_eval_images
        self._opened: dict[Key, Split] = {}

    def of(self, spec: ExperimentSpec) -> dict[str, Split]:
        """The training and the validation split of a row.

        Raises:
            DataError: Files are missing or damaged, or there is nothing to score in the images that are to be scored.
        """
        # rows may treat the same files differently (broken_images), so all of the data's spec is in the key; the network's part,
        # resolution and colours, decides neither classes nor digest
        data = spec.data.model_dump_json()
        for name, source in sources_of(spec, self._custom).items():
            if (data, name) not in self._opened:
                self._opened[data, name] = _open(spec, name, source)
                if name == "val" and self._max_eval_images:
                    _check_scored(spec, source, self._max_eval_images)
        return {name: split for (known, name), split in self._opened.items() if known == data}


def _open(spec: ExperimentSpec, name: str, source: Source) -> Split:
    dataset = open_dataset(spec.data, source, spec.model.input, training=name == "train")
    if spec.data.broken_images == "refuse":
        refuse_broken(dataset, home.home() / "decoded")
    if name == "train" and isinstance(dataset, CocoDataset):
        lost = cut_away(dataset)
        if lost.cut or lost.small:
            log.warning("%s: %s", source.annotations, lost.words)
    return Split(source, dataset.classes, dataset.digest, dataset.infos)


def _check_scored(spec: ExperimentSpec, source: Source, count: int) -> None:
    option = "--max-eval-images"
    try:
        first = open_dataset(spec.data, source, spec.model.input, max_images=count)
    except DataError as error:  # all of them opened: it is these few that have nothing
        raise DataError(f"{option} {count}: {error}. Take more of them, or leave {option} out") from None
    refuse_unscored(first, spec.scores[0], option)


def fit_classes(spec: ExperimentSpec, data: Mapping[str, Split]) -> ExperimentSpec:
    """The spec with as many classes as the data has.

    Raises:
        ValueError: The splits have different ones.
    """
    train, val = data["train"].classes, data["val"].classes
    if [(c["id"], c["name"]) for c in train] != [(c["id"], c["name"]) for c in val]:
        names = [[category["name"] for category in classes] for classes in (train, val)]
        raise ValueError(f"training and validation data have different classes: {_difference(*names)}")
    if len(train) == spec.model.head.num_classes:
        return spec
    return spec.override({"model.head.num_classes": len(train)})


def _difference(train: Sequence[str], val: Sequence[str]) -> str:
    """Says in words which classes only one of the splits has: the first three names of either side."""
    only = {"training": [n for n in train if n not in set(val)], "validation": [n for n in val if n not in set(train)]}
    told = [
        f"{len(names)} only in {split} ({', '.join(names[:3])}{', ..' if len(names) > 3 else ''})"
        for split, names in only.items()
        if names
    ]
    return "; ".join(told) or "the same names under other numbers"
