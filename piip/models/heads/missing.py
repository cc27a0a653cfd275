"""The place of a head that is not written yet."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from piip.contracts import Size


class MissingHead(nn.Module):
    """Lets a network be built, counted and loaded up to its maps; refuses to train.

    Args:
        kind: Of the head, for the message.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(
        self, features: list[Tensor], sizes: Sequence[Size], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> list[Tensor]:
        """The backbone's maps as they are.

        Raises:
            ValueError: In training: there is no head to give losses.
        """
        del sizes
        if self.training or targets is not None:
            raise ValueError(
                f"the {self.kind} head is not written yet: this network can be built, counted and loaded, not trained"
            )
        return features

    def probe(self, features: list[Tensor]) -> dict[str, Callable[[], Sequence[Tensor]]]:
        """Nothing to compute."""
        del features
        return {}
