"""What a trial takes: seconds and memory, over all its attempts."""

import time
from collections.abc import Mapping

from piip.training import machine
from piip.training.loop import Timer


class Accounts:
    """Counts what the steps took that count, not those a crash lost; from the moment it is made."""

    def __init__(self) -> None:
        self.training, self.evaluation = Timer(), Timer()
        self._began = time.time()
        self._worker_seconds = self._peak_memory_gb = 0.0

    def count_on(self, before: Mapping[str, float]) -> None:
        """Take over `spent` of the attempts before."""
        self.training.seconds = before.get("time/train_seconds", 0.0)
        self.evaluation.seconds = before.get("time/eval_seconds", 0.0)
        self._worker_seconds = before.get("time/worker_seconds", 0.0)
        self._peak_memory_gb = before.get("cost/peak_memory_gb", 0.0)

    def spent(self) -> dict[str, float]:
        """`time/...` in seconds and `cost/peak_memory_gb`, so far."""
        return {
            "time/train_seconds": self.training.seconds,
            "time/eval_seconds": self.evaluation.seconds,
            "time/worker_seconds": self._worker_seconds + time.time() - self._began,
            "cost/peak_memory_gb": max(self._peak_memory_gb, machine.peak_memory_gb()),
        }

    def mean_speed(self, images: int) -> dict[str, float]:
        """Images/s in training steps over all attempts, where the last logged value is of a few steps."""
        return {"train/images_per_second_mean": images / self.training.seconds}
