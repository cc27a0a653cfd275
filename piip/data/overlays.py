"""Label maps over their images, with a legend."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from piip.console import one_line
from piip.data.drawing import color_of, enlarged, font, font_size

OPACITY = 0.55
"""How much of a class's colour covers the image."""
UNNUMBERED = (70, 70, 70)
"""RGB of class number 0, mostly what is behind everything."""
LEGEND_LINES = 16


def draw_map(image: Image.Image, numbers: NDArray[Any], names: Mapping[int, str]) -> Image.Image:
    """The image under translucent colours, classes outlined, beside a legend; small images come back larger by a whole factor.

    Args:
        image: The picture in original pixels.
        numbers: (H, W) class numbers of its pixels; numbers without a name are not painted.
        names: Class number to name.
    """
    canvas, factor = enlarged(image)
    numbers = numbers.repeat(factor, axis=0).repeat(factor, axis=1)
    found = [number for number in np.unique(numbers).tolist() if number in names]
    colours = np.zeros((2**16, 3), dtype=np.float32)
    opacity = np.zeros(2**16, dtype=np.float32)
    for number in found:
        colours[number], opacity[number] = _colour(number), OPACITY
    share = opacity[numbers][..., None]
    painted = np.asarray(canvas) * (1 - share) + colours[numbers] * share
    edge = _edges(numbers) & (opacity[numbers] > 0)
    painted[edge] = colours[numbers][edge]
    pixels = {number: int((numbers == number).sum()) for number in found}
    canvas = Image.fromarray(painted.round().astype(np.uint8))
    return _with_legend(canvas, {n: count / numbers.size for n, count in pixels.items()}, names)


def _colour(number: int) -> tuple[int, int, int]:
    return color_of(number) if number else UNNUMBERED


def _edges(numbers: NDArray[Any]) -> NDArray[np.bool_]:
    """(H, W) pixels with another number right of or below them."""
    edge = np.zeros(numbers.shape, dtype=bool)
    edge[:, :-1] |= numbers[:, :-1] != numbers[:, 1:]
    edge[:-1] |= numbers[:-1] != numbers[1:]
    return edge


def percent(share: float) -> str:
    """Whole percents of a share in 0..1; of what is there but little, that it is less than one."""
    return "< 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def _with_legend(canvas: Image.Image, shares: Mapping[int, float], names: Mapping[int, str]) -> Image.Image:
    """A column on the right: what covers most comes first."""
    letters = font(font_size(canvas.size))
    line = sum(letters.getmetrics()) + 4
    largest = sorted(shares, key=lambda number: (-shares[number], number))
    texts = [f"{one_line(names[number])} {percent(shares[number])}" for number in largest[:LEGEND_LINES]]
    if len(largest) > LEGEND_LINES:
        texts.append(f"and {len(largest) - LEGEND_LINES} more")
    width = line + 12 + max((round(letters.getlength(text)) for text in texts), default=0)
    page = Image.new("RGB", (canvas.width + width, max(canvas.height, line * len(texts) + 8)), "white")
    page.paste(canvas)
    pen, left = ImageDraw.Draw(page), canvas.width + 6
    for row, text in enumerate(texts):
        top = 4 + row * line
        if row < LEGEND_LINES:
            pen.rectangle((left, top + 2, left + line - 8, top + line - 6), fill=_colour(largest[row]))
        pen.text((left + line, top), text, fill="black", font=letters)
    return page
