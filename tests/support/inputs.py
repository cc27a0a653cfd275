"""What networks want of images, in tests of data."""

from piip.contracts import Input


def grey(resolution: int, *, masks: bool = True) -> Input:
    """Images of `resolution` pixels, 0..255 scaled to -1..1."""
    return Input(resolution, (127.5, 127.5, 127.5), (127.5, 127.5, 127.5), masks)
