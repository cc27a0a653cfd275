"""A running mean of the weights (EMA): what is scored, and what a checkpoint's model is; training goes on with the weights themselves."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The mean of a model's weights over the last steps, of the order of 1 / (1 - decay); buffers are those of the last step.

    Args:
        model: As it is before the first step; whole on this worker.
        decay: What stays of the mean in a step.
        warmup: Steps in which the mean begins to move slowly away from the weights; 0: none.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup: int = 0) -> None:
        self.decay, self.warmup = decay, warmup
        self._model = model
        self._learned = {name for name, _ in model.named_parameters()}
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def kept(self, step: int) -> float:
        """What stays of the mean in `step` (from 1): 1 - m - (1 - m) exp(-step / warmup), m = 1 - decay (mmdetection's ExpMomentumEMA)."""
        return self.decay if not self.warmup else self.decay * (1 - math.exp(-step / self.warmup))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after `step`."""
        share = 1 - self.kept(step)
        for name, value in self._model.state_dict().items():
            if name in self._learned:
                self.weights[name].lerp_(value, share)
            else:
                self.weights[name].copy_(value)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Goes on from a mean that was saved."""
        for name, value in weights.items():
            self.weights[name].copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the mean for its weights, and afterwards its own again, to the bit."""
        with torch.no_grad():
            own = {name: value.clone() for name, value in self._model.state_dict().items()}
        self._model.load_state_dict(self.weights)
        try:
            yield
        finally:
            self._model.load_state_dict(own)
