"""Whether there is anything to score in the images that are asked for, looked at before a network sees one."""

from typing import TYPE_CHECKING

from piip.contracts import Score
from piip.data.sources import DataError

if TYPE_CHECKING:
    from piip.contracts import Dataset


def refuse_unscored(split: "Dataset", score: Score, option: str) -> None:
    """Refuse the first images of a split where nothing in them is to be scored.

    Args:
        split: Opened for evaluation, with so many images as are asked for.
        score: What is to be there.
        option: What asks for so few, as it is typed.

    Raises:
        DataError: Names the figure that would be missing.
    """
    if score.name not in split.metric().compute():
        raise DataError(
            f"{option} {len(split)}: there is nothing to score in the first {len(split)} images of {split.source.annotations}, so "
            f"{score.label} ({score.name}) would be missing. Take more of them, or leave {option} out"
        )
