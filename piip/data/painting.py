"""Translucent masks with a line along their edge; a thousand of them in a large image take two seconds."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from piip.data.runs import Cut

FILL = 0.38
"""How much of a mask's colour covers the image."""
MARGIN = 3
"""Pixels around a mask that painting it looks at: enlarging and the line along the edge reach no farther."""


def paint(canvas: Image.Image, cut: Cut, factor: int, color: tuple[int, int, int]) -> None:
    """Lays a translucent colour over the mask, and a solid line along its inner edge; looks at no pixel far from the mask."""
    x0, y0 = max(cut.left - MARGIN, 0), max(cut.top - MARGIN, 0)
    height, width = cut.mask.shape
    x1, y1 = (
        min(end + MARGIN, side // factor)
        for end, side in zip((cut.left + width, cut.top + height), canvas.size, strict=True)
    )
    mask = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
    mask[cut.top - y0 :, cut.left - x0 :][:height, :width] = cut.mask
    size = ((x1 - x0) * factor, (y1 - y0) * factor)
    inside = mask > 0
    if factor > 1:
        inside = np.asarray(Image.fromarray(mask * 255).resize(size, Image.Resampling.BILINEAR)) > 127
    inner = _shrunk(inside, 1 if max(canvas.size) < 900 else 2)
    alpha = np.where(inner, np.uint8(255 * FILL), inside * np.uint8(255))  # the line along the edge covers all
    place = (x0 * factor, y0 * factor)
    canvas.paste(color, (*place, place[0] + size[0], place[1] + size[1]), Image.fromarray(alpha))


def _shrunk(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """(H, W) without what is nearer than so many pixels to the outside; the picture's border is no outside."""
    for axis in (0, 1):
        widths = [(pixels, pixels) if axis == a else (0, 0) for a in (0, 1)]
        wide, length = np.pad(mask, widths, mode="edge"), mask.shape[axis]
        mask = np.ones_like(mask)
        for start in range(2 * pixels + 1):
            mask &= wide[start : start + length] if axis == 0 else wide[:, start : start + length]
    return mask
