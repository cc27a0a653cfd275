"""What ranks a run, as its tags say it: best checkpoint, progress, searches and reports read it there and know no task."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from piip.contracts import Score
from piip.spec import CocoSpec
from piip.spec.data import KINDS

SCORE, SCORES = "piip.score", "piip.scores"


def as_tags(scores: Sequence[Score]) -> dict[str, str]:
    """Tags of a run whose data set has these scores: the first's name for people, all of them for `scores_of`."""
    return {SCORE: scores[0].name, SCORES: json.dumps([asdict(score) for score in scores])}


def scores_of(tags: Mapping[str, str]) -> tuple[Score, ...]:
    """A run's scores, the one that ranks it first. Runs from before there was a tag were trained on COCO-format data.

    Raises:
        ValueError: The tag is not what `as_tags` wrote.
    """
    if SCORES not in tags:
        return CocoSpec.scores
    try:
        scores = tuple(Score(**entry) for entry in json.loads(tags[SCORES]))
    except (ValueError, TypeError):
        scores = ()
    if not scores or any(score.mode not in ("max", "min") for score in scores):
        raise ValueError(
            f'tag {SCORES} is {tags[SCORES]!r}; it holds a JSON list of {{"name", "label", "mode": "max" or "min"}}, '
            "the ranking score first. Put it right in MLflow"
        )
    return scores


def details_of(scores: Sequence[Score]) -> tuple[Score, ...]:
    """What is shown beside a run's scores where the run logged it: as kinds of data with one of these scores say."""
    names = {score.name for score in scores}
    named = {
        detail.name: detail
        for kind in KINDS
        if names & {score.name for score in (*kind.keypoint_scores, *kind.scores)}
        for detail in kind.details
    }
    return tuple(detail for name, detail in named.items() if name not in names)
