"""What heads ask of backbones, checked when a network is built."""

from collections.abc import Sequence

from piip.contracts import Maps, Wish

STRIDES = (4, 8, 16, 32)


def strides_of(wish: Wish, given: Sequence[int], *, what: str) -> tuple[int, ...]:
    """The strides a head asks for.

    Args:
        wish: The head's.
        given: Strides the backbone can give.
        what: The backbone, for the message.

    Raises:
        ValueError: It asks for tokens, or for strides that are not there.
    """
    if not isinstance(wish, Maps):
        raise ValueError(
            f"{what} gives maps at strides {tuple(given)}; this head reads the tokens of a PIIP's branches "
            "(a classifier also reads maps: model.head.reads=map)"
        )
    if missing := [stride for stride in wish.strides if stride not in given]:
        raise ValueError(f"{what} gives maps at strides {tuple(given)}; this head asks for {missing}")
    return wish.strides
