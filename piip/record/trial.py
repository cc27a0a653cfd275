"""What a trial is: plain values, so that it travels to any worker; nothing heavy is imported to read it there."""

from collections.abc import Mapping
from dataclasses import dataclass

from piip.contracts import Score
from piip.data.sources import Source
from piip.spec import ExperimentSpec


@dataclass(frozen=True)
class Trial:
    """What to train and where its data lies."""

    spec: ExperimentSpec
    key: str
    sources: Mapping[str, Source]
    """Split name (`train`, `val`) -> files."""
    max_eval_images: int | None = None

    @property
    def score(self) -> Score:
        """What ranks it among trials that have the same on the same data."""
        return self.spec.scores[0]
