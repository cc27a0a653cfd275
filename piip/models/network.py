"""A network: a backbone and the head that reads what it gives."""

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, Self

from torch import Tensor, nn
from typing_extensions import override

from piip.contracts import Size
from piip.models.sliding import Window, slide


class Network(nn.Module):
    """Images -> losses in training, one prediction an image in evaluation.

    Args:
        backbone: Built for the head's wish: it gives these maps, or tokens.
        head: See `piip.contracts.Head`.
        window: In evaluation the network sees crops of this size, whose `logits` are put together; None: whole images.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, window: Window | None = None) -> None:
        super().__init__()
        self.backbone, self.head, self.window = backbone, head, window
        self._frozen: tuple[str, ...] = ()

    def freeze(self, parts: Sequence[str]) -> None:
        """Parts do not learn, and stay in evaluation mode.

        Args:
            parts: Names of modules, as `backbone.branches.1`.

        Raises:
            ValueError: There is no such part, or nothing is left to learn.
        """
        known = dict(self.named_modules())
        for part in parts:
            if not part or part not in known:
                nearest = max(known, key=lambda name: SequenceMatcher(None, name, part).ratio())
                raise ValueError(f"train.freeze: the network has no part {part!r}. Nearest: {nearest!r}")
            known[part].requires_grad_(False)
        if parts and not any(parameter.requires_grad for parameter in self.parameters()):
            raise ValueError(f"train.freeze {list(parts)} leaves nothing to learn")
        self._frozen = tuple(parts)

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self._frozen:
            self.get_submodule(part).eval()
        return self

    def forward(
        self, images: Tensor, sizes: Sequence[Size] | None = None, targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> Any:
        """Losses `loss_<part>`, or predictions.

        Args:
            images: (B, 3, H, W), normalised, zero padded right and bottom.
            sizes: Height and width of every image's content; None: all is content.
            targets: One an image, in training; what is in them is the data set's matter (see piip/data/formats).

        Raises:
            ValueError: In training without targets.
        """
        if self.training and targets is None:
            raise ValueError("targets are needed in training; call model.eval() for predictions")
        height, width = images.shape[-2:]
        sizes = sizes or [(height, width)] * len(images)
        if self.training or self.window is None:
            return self.head(self.backbone(images), sizes, targets)
        contents = [image[:, :h, :w] for image, (h, w) in zip(images, sizes, strict=True)]
        return [{"logits": slide(self._logits, content, self.window)} for content in contents]

    def _logits(self, crop: Tensor) -> Tensor:
        """(1, 3, c, c) -> (classes, c, c)."""
        height, width = crop.shape[-2:]
        return self.head(self.backbone(crop), [(height, width)])[0]["logits"]
