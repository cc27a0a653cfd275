"""Photographs decoded ahead, as packed folders may hold them."""

from pathlib import Path

from piip.data.images import TURNS, opened, orientation
from piip.data.sources import DataError


def as_pixels(path: Path) -> bytes | None:
    """An image that is upright and of 8 bits a colour as a pixmap (PPM), which need not be decoded; None of any other."""
    try:
        with opened(path) as stored:
            if stored.mode != "RGB" or orientation(stored) in TURNS:
                return None
            return b"P6\n%d %d\n255\n" % stored.size + stored.tobytes()
    except DataError:  # stored as it is: whoever reads it says what is wrong
        return None
