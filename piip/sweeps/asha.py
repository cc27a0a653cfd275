"""Stopping weak trials early: by their score, so all must have the same one."""

from collections.abc import Sequence

from ray.tune.schedulers import ASHAScheduler

from piip.contracts import Score
from piip.spec import ExperimentSpec


def asha(score: Score) -> ASHAScheduler:
    """Stops the half of the trials that the score ranks last, at each evaluation; Tune is told it under its own name."""
    return ASHAScheduler(
        time_attr="step", metric=score.name, mode=score.mode, max_t=10**9, grace_period=1, reduction_factor=2
    )


def shared_score(specs: Sequence[ExperimentSpec]) -> Score:
    """What ranks all rows.

    Raises:
        ValueError: They have several scores, which cannot be compared.
    """
    scores = list(dict.fromkeys(spec.scores[0] for spec in specs))
    if len(scores) > 1:
        named = ", ".join(f"{score.label} ({score.name})" for score in scores)
        raise ValueError(
            f"--asha stops trials by one score, these rows have {len(scores)}: {named}. Name rows of one of them, or leave --asha out"
        )
    return scores[0]
