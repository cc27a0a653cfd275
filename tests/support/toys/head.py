"""A head that says how bright an image is (piip/models/heads/brightness.py)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from piip.contracts import Size
from piip.spec.heads import BrightnessSpec


class Brightness(nn.Module):
    """The mean of the coarsest map -> one number."""

    def __init__(self, channels: Sequence[int], spec: BrightnessSpec) -> None:
        super().__init__()
        self.linear = nn.Linear(channels[-1], spec.num_classes)

    def forward(
        self, features: Sequence[Tensor], sizes: Sequence[Size], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """One map (B, C, H, W) -> {"loss_brightness": ()}, or {"brightness": ()} an image."""
        said = self._said(features)
        if self.training:
            return {"loss_brightness": (said - torch.stack([t["brightness"] for t in targets or ()])).abs().mean()}
        return [{"brightness": one} for one in said]

    def probe(self, features: Sequence[Tensor]) -> dict[str, Callable[[], Sequence[Tensor]]]:
        """All of it."""
        return {"head": lambda: [self._said(features)]}

    def _said(self, features: Sequence[Tensor]) -> Tensor:
        return self.linear(features[-1].mean(dim=(2, 3)))[:, 0]
