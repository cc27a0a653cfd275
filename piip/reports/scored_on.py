"""Which data a trial was scored on, as its tags say it: trials of other data are never compared."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from piip.data.own_name import own_name
from piip.spec.places import OWN
from piip.tracking.store import RunInfo

NOBODY_NOTED = "data that nobody noted"


@dataclass(frozen=True)
class ScoredOn:
    """The validation data of one ranking."""

    name: str
    """What they are called; empty where nobody said it."""
    digest: str
    """Of their files; empty where nobody noted it."""
    images: int | None
    """How many were scored."""
    of: int | None = None
    """How many there are, where only the first `images` were scored."""
    shares_its_name: bool = False
    """Whether an experiment has other data that would read the same."""

    def __str__(self) -> str:
        """`birds (80 images)`."""
        count = f"the first {self.images} of {self.of} images" if self.of else f"{self.images} images"
        facts = [count] if self.images else []
        facts += [f"digest {self.digest[:8]}"] if self.digest and self.shares_its_name else []
        return (self.name or NOBODY_NOTED) + (f" ({', '.join(facts)})" if facts else "")

    @property
    def slug(self) -> str:
        """As a part of a file's name: `birds_1a2b3c4d_80`."""
        parts = (self.name, self.digest[:8], str(self.images or ""))
        return re.sub(r"[^\w.-]+", "_", "_".join(filter(None, parts)))


def data_key(run: RunInfo) -> tuple[str, int]:
    """Equal for runs that were scored on the same images: the data's digest and how many of them; 0 is all."""
    limit, count = (int(run.tags.get(tag, 0)) for tag in ("piip.max_eval_images", "data.val.count"))
    return run.tags.get("data.val.digest", ""), limit if not count or limit < count else 0


def scored_on(runs: Sequence[RunInfo]) -> ScoredOn:
    """What runs of one `data_key` were scored on."""
    digest, limit = data_key(runs[0])
    names = dict.fromkeys(filter(None, map(_name, runs)))
    count = next((int(run.tags["data.val.count"]) for run in runs if "data.val.count" in run.tags), None)
    return ScoredOn(", ".join(names), digest, limit or count, count if limit else None)


def told_apart(data: Sequence[ScoredOn]) -> list[ScoredOn]:
    """The data of an experiment, those that read the same with their digests."""
    return [replace(d, shares_its_name=sum(str(d) == str(other) for other in data) > 1) for d in data]


def _name(run: RunInfo) -> str:
    """What the run's data are called. What an earlier version called "custom" is named as today."""
    name = run.params.get("data.name", "")
    paths = [Path(run.tags[tag]) for tag in ("data.val.annotations", "data.val.images") if tag in run.tags]
    return own_name(paths) if name == OWN and paths else name
