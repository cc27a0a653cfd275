"""How people say which way a score goes."""

from piip.contracts import Score


def best(score: Score) -> str:
    """`highest` or `lowest`."""
    return "highest" if score.mode == "max" else "lowest"


def better(score: Score) -> str:
    """`higher` or `lower`."""
    return "higher" if score.mode == "max" else "lower"


def heading(score: Score) -> str:
    """The label and the way that is better: `mIoU ↑`."""
    return f"{score.label} {'↑' if score.mode == 'max' else '↓'}"


def on_front(score: Score) -> str:
    """What the Pareto front of a score is."""
    return f"no trial has a {better(score)} {score.label} at equal or fewer GFLOPs"
