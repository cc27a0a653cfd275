"""Predictions and ground truth over images."""

import colorsys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from piip.console import one_line
from piip.data.painting import paint
from piip.data.runs import Cut, cut_out

READABLE = 512
"""Images with a shorter long side (pixels) are enlarged by a whole factor before anything is drawn."""
PERSON_LINES = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10), (1, 2), (0, 1), (0, 2),
    (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
"""Pairs of COCO's 17 keypoints of a person, counted from 0, between which lines are drawn."""


def draw_predictions(
    image: Image.Image,
    predictions: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
    *,
    score_threshold: float = 0.5,
    lines: Mapping[int, Sequence[tuple[int, int]]] | None = None,
) -> Image.Image:
    """The image with boxes, translucent masks, class names and scores; small images come back larger by a whole factor.

    Args:
        image: The picture in original pixels.
        predictions: COCO results or annotations in original pixels: `category_id`, `bbox` (x, y, width, height),
            optionally `score` (none: ground truth, always drawn), `segmentation` (RLE, polygons or an (H, W) array) and `keypoints`
            (x, y, visibility of each; those of 0 are not there).
        names: Category id to name.
        score_threshold: Predictions below it are left out; a line says so where that leaves none.
        lines: Category id -> pairs of keypoints, counted from 0, that are joined; not there: as COCO joins a person's 17, a ring of others.
    """
    kept = [p for p in predictions if p.get("score", 1.0) >= score_threshold]
    kept.sort(key=lambda p: p.get("score", 1.0))  # the surest is drawn last, on top
    canvas, factor = enlarged(image)
    for prediction in kept:
        cut = _cut(prediction, image.height, image.width)
        if cut is not None and cut.mask.size:
            paint(canvas, cut, factor, color_of(prediction["category_id"]))
    pen = ImageDraw.Draw(canvas)
    width_of_line = max(2, round(max(canvas.size) / 400))
    for prediction in kept:
        x, y, width, height = (v * factor for v in prediction["bbox"])
        pen.rectangle((x, y, x + width, y + height), outline=color_of(prediction["category_id"]), width=width_of_line)
    for prediction in kept:
        _draw_keypoints(pen, prediction, factor, width_of_line, (lines or {}).get(prediction["category_id"]))
    _write_labels(pen, kept, names, factor, canvas.size)
    if predictions and not kept:
        top = max(p["score"] for p in predictions)
        tag(pen, (0, 0), f"nothing above {score_threshold:.2f} (highest {top:.2f})", (40, 40, 40), canvas.size)
    return canvas


def _draw_keypoints(
    pen: ImageDraw.ImageDraw,
    prediction: Mapping[str, Any],
    factor: int,
    line: int,
    joined: Sequence[tuple[int, int]] | None,
) -> None:
    """A dot a keypoint, with the lines between them."""
    points = np.array(prediction.get("keypoints") or [], dtype=np.float64).reshape(-1, 3)
    count, color = len(points), color_of(prediction["category_id"])
    ring = [(k, (k + 1) % count) for k in range(count)]
    pairs = (PERSON_LINES if count == 17 else ring) if joined is None else joined
    places = [(float(x) * factor, float(y) * factor) for x, y, _ in points]
    for start, stop in pairs:
        if max(start, stop) < count and points[start, 2] > 0 and points[stop, 2] > 0:
            pen.line((*places[start], *places[stop]), fill=color, width=line)
    for (x, y), visible in zip(places, points[:, 2], strict=True):
        if visible > 0:
            pen.ellipse(
                (x - 2 * line, y - 2 * line, x + 2 * line, y + 2 * line), fill="white", outline=color, width=line
            )


def draw_lines(image: Image.Image, lines: Sequence[tuple[str, int]]) -> Image.Image:
    """The image with lines of text from its upper left corner down; small images come back larger by a whole factor.

    Args:
        image: The picture.
        lines: (text, category id, which gives the colour) each.
    """
    canvas, _ = enlarged(image)
    pen = ImageDraw.Draw(canvas)
    y = 0
    for text, category in ((one_line(text), category) for text, category in lines):
        tag(pen, (0, y), text, color_of(category), canvas.size)
        y += _label_size(text, canvas.size)[1]
    return canvas


def side_by_side(
    truth: Image.Image, prediction: Image.Image, *, headings: tuple[str, str] = ("truth", "prediction")
) -> Image.Image:
    """Two pictures of one image next to each other, each under its heading."""
    return sheet([_headed(truth, headings[0]), _headed(prediction, headings[1])], 2, padding=4)


def sheet(images: Sequence[Image.Image], columns: int, *, padding: int = 8, background: str = "white") -> Image.Image:
    """A contact sheet: images in rows of `columns`, each row as high and each column as wide as its largest image.

    Raises:
        ValueError: No images, or no columns.
    """
    if not images or columns < 1:
        raise ValueError(f"a sheet needs at least one image and one column, got {len(images)} and {columns}")
    columns = min(columns, len(images))
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    widths = [max(row[c].width for row in rows if c < len(row)) for c in range(columns)]
    heights = [max(image.height for image in row) for row in rows]
    size = (sum(widths) + padding * (columns + 1), sum(heights) + padding * (len(rows) + 1))
    page = Image.new("RGB", size, background)
    y = padding
    for row, height in zip(rows, heights, strict=True):
        x = padding
        for image, width in zip(row, widths, strict=False):
            page.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
            x += width + padding
        y += height + padding
    return page


DISTINCT = (
    (0, 114, 235), (230, 60, 40), (20, 160, 70), (255, 176, 0), (150, 60, 200), (0, 190, 200),
    (240, 70, 160), (130, 170, 0), (130, 80, 40), (90, 110, 255), (255, 120, 60), (0, 120, 110),
)  # fmt: skip
"""RGB of categories 1 to 12, told apart on photographs; further ones are computed."""


def color_of(category: int) -> tuple[int, int, int]:
    """RGB of a category id: the same in every picture and every run."""
    if 1 <= category <= len(DISTINCT):
        return DISTINCT[category - 1]
    # steps of the golden ratio never come close to an earlier hue for long; three brightnesses tell near hues apart
    hue = (category * 0.618033988749895) % 1
    red, green, blue = colorsys.hls_to_rgb(hue, (0.5, 0.62, 0.42)[category % 3], 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Bold letters, in pixels."""
    # matplotlib ships DejaVu: Latin, Greek and Cyrillic names; the font inside Pillow stops at basic Latin
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    return ImageFont.truetype(str(path), size)


def font_size(size: tuple[int, int]) -> int:
    """What can be read in a picture of this width and height."""
    return max(12, round(max(size) / 44))


def enlarged(image: Image.Image) -> tuple[Image.Image, int]:
    """RGB, at least READABLE wide or high, and the whole factor that took."""
    factor = -(-READABLE // max(image.size)) if max(image.size) < READABLE else 1
    size = (image.width * factor, image.height * factor)
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC), factor


def _cut(prediction: Mapping[str, Any], height: int, width: int) -> Cut | None:
    """The mask as far as it has pixels, of RLE, polygons or an array; None where there is none."""
    segmentation = prediction.get("segmentation")
    if isinstance(segmentation, np.ndarray):
        return Cut((segmentation > 0).astype(np.uint8), 0, 0)
    return cut_out(segmentation, height, width) if segmentation else None


def _write_labels(
    pen: ImageDraw.ImageDraw,
    kept: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
    factor: int,
    size: tuple[int, int],
) -> None:
    """Name and score over each box, where no earlier label stands; the surest prediction chooses first."""
    taken = np.zeros((len(kept), 4), dtype=np.int64)
    for number, prediction in enumerate(reversed(kept)):
        name = names.get(prediction["category_id"], f"category {prediction['category_id']}")
        text = one_line(f"{name} {prediction['score']:.2f}" if "score" in prediction else name)
        x, y, width, height = (round(v * factor) for v in prediction["bbox"])
        label_width, label_height = _label_size(text, size)
        above, bottom, right = y - label_height, y + height, x + width - label_width
        wishes = [(x, above), (x, y), (x, bottom), (x, bottom - label_height), (right, above), (right, bottom)]
        places = [_inside(p, (label_width, label_height), size) for p in wishes]
        plates = [(*p, p[0] + label_width, p[1] + label_height) for p in places]
        free = (place for place, plate in zip(places, plates, strict=True) if not _overlaps(plate, taken[:number]))
        place = next(free, places[0])
        taken[number] = (*place, place[0] + label_width, place[1] + label_height)
        tag(pen, place, text, color_of(prediction["category_id"]), size)


def _label_size(text: str, size: tuple[int, int]) -> tuple[int, int]:
    letters = font(font_size(size))
    ascent, descent = letters.getmetrics()
    return round(letters.getlength(text)) + 8, ascent + descent + 2


def _inside(place: tuple[int, int], label: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    x, y = (max(0, min(p, s - part)) for p, part, s in zip(place, label, size, strict=True))
    return x, y


def _overlaps(plate: tuple[int, int, int, int], taken: np.ndarray) -> bool:
    """Whether it covers some of the plates (n, 4)."""
    x0, y0, x1, y1 = plate
    return bool(((x0 < taken[:, 2]) & (taken[:, 0] < x1) & (y0 < taken[:, 3]) & (taken[:, 1] < y1)).any())


def tag(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, color: tuple[int, int, int], size: tuple[int, int]
) -> None:
    """Text on a plate of its colour, black or white, whichever reads better."""
    width, height = _label_size(text, size)
    pen.rectangle((*place, place[0] + width - 1, place[1] + height - 1), fill=color)
    brightness = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    ink = "black" if brightness > 140 else "white"
    pen.text((place[0] + 4, place[1] + 1), text, fill=ink, font=font(font_size(size)))


def _headed(image: Image.Image, heading: str) -> Image.Image:
    letters = font(font_size(image.size))
    page = Image.new("RGB", (image.width, image.height + sum(letters.getmetrics()) + 6), "white")
    page.paste(image, (0, page.height - image.height))
    ImageDraw.Draw(page).text((2, 2), heading, fill="black", font=letters)
    return page
