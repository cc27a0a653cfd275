"""What somebody may have meant who typed a name that there is not. Imports nothing heavy."""

from collections.abc import Iterable
from difflib import get_close_matches

FEW = 12
"""Names that an error may list."""


def nearest(name: str, among: Iterable[str]) -> str:
    """The middle of an error message: `Nearest: 'eval'.`; where nothing is like it, what there is, if that is few.

    Args:
        name: As typed.
        among: The names there are.
    """
    names = list(among)
    close = get_close_matches(name.lower(), names, n=1)
    if close:
        return f"Nearest: {close[0]!r}."
    return f"There are: {', '.join(names)}." if 0 < len(names) <= FEW else f"None of {len(names)} is called alike."
