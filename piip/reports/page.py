"""What a report says, before it is HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from piip.reports.ranking import Ranking, trials_in
from piip.reports.trials import Trial


@dataclass(frozen=True)
class Plot:
    """A figure on white and on dark paper, as PNG."""

    name: str
    """File name without suffix, e.g. `score_against_gflops`."""
    section: str
    caption: str
    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Chapter:
    """What is said of the trials that one score on the same data ranks."""

    ranking: Ranking
    headline: str
    plots: Sequence[Plot] = ()
    pictures: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """Heading (a trial) -> its prediction images."""


@dataclass(frozen=True)
class Page:
    """What one report says."""

    experiment: str
    made: str
    """When, and from which tracking server, for the line under the title."""
    chapters: Sequence[Chapter]
    provenance: Sequence[tuple[str, str]] = ()
    """Facts about how the trials were made: what, value."""
    settings: Sequence[tuple[str, str]] = ()
    """Parameters all trials share."""

    @property
    def trials(self) -> list[Trial]:
        """All, one chapter after another."""
        return trials_in([chapter.ranking for chapter in self.chapters])

    @property
    def plots(self) -> list[Plot]:
        """All, one chapter after another."""
        return [plot for chapter in self.chapters for plot in chapter.plots]
