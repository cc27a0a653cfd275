"""Mean absolute error (piip/metrics/error.py)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


class Error:
    """How far results are from the truth, on average.

    Args:
        truth: Image id -> what is right.
    """

    def __init__(self, truth: Mapping[int, float]) -> None:
        self._truth, self._errors = truth, {}

    def update(self, result: float, info: Any) -> None:
        """Adds one image."""
        self._errors[info.image_id] = abs(result - self._truth[info.image_id])

    def state(self) -> dict[int, float]:
        """Image id -> error."""
        return self._errors

    def merge(self, states: Sequence[dict[int, float]]) -> None:
        """Of several workers."""
        self._errors = {k: v for state in states for k, v in state.items()}

    def compute(self) -> dict[str, float]:
        """The mean, in any order."""
        return {"toy/mae": math.fsum(self._errors.values()) / len(self._errors)}
