"""What a check of data finds."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Problem:
    """Something wrong in a data set's files."""

    kind: str
    """A few words to count by, e.g. `unknown image`."""
    message: str
    """One line with the offending id or file."""
    fatal: bool = True
    """False: loading copes."""


@dataclass
class Seen:
    """What a split is good for, counted: words -> how many. Empty while something fatal is wrong: then nothing is seen at all."""

    training: dict[str, int] = field(default_factory=dict)
    """What is learned, and what is left out and why."""
    scoring: dict[str, int] = field(default_factory=dict)
    """What results are compared with."""


class Looked(NamedTuple):
    """What there is to look at, and what is found wrong as one looks."""

    images: int
    annotations: int
    """Objects, or label maps."""
    categories: int
    problems: Iterator[list[Problem]]
    """The problems of one image after the other, found as they are asked for; can be gone through once."""
    seen: Seen
    """What training and scoring make of the split; complete once all problems have been asked for."""


@dataclass
class Report:
    """What was looked at and what was found."""

    images: int
    annotations: int
    categories: int
    seen: Seen
    problems: dict[str, list[Problem]] = field(default_factory=dict)
    """The problems found, by their kind."""
    asks: list[str] = field(default_factory=list)
    """What objects ask of a row's network, a line a branch."""

    @property
    def usable(self) -> bool:
        """Whether no problem is fatal."""
        return not any(problem.fatal for found in self.problems.values() for problem in found)

    def add(self, problem: Problem) -> None:
        """Files a problem under its kind."""
        self.problems.setdefault(problem.kind, []).append(problem)
