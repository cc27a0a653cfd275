"""Images with what their annotations say drawn over them: a look that no count replaces."""

from pathlib import Path

from PIL import Image

from piip.contracts import Dataset, Input
from piip.data import open_dataset
from piip.data.images import find_images, read_image
from piip.data.samples import ImageInfo
from piip.data.sources import DataError, Source
from piip.spec import Data

SIDE = 480
"""Pixels that a picture's sides have at most on a sheet."""
COLUMNS = 4
COUNT = 12
GAP = 8


def save_sheet(data: Data, source: Source, path: Path) -> int:
    """Draws the truth of some images of a split, the same ones every time, side by side; returns how many.

    Args:
        data: What the files are.
        source: A split that the check calls good.
        path: Its ending says the kind of file: .jpg, .png.

    Raises:
        DataError: No images, or Pillow knows no such ending.
    """
    split = open_dataset(data, source, Input(SIDE, (0, 0, 0), (1, 1, 1)))
    pictures = []
    for index in split.examples(COUNT):
        if (image := picture_of(split, split.infos[index])) is not None:
            drawn = split.draw(image, split.truth(index)).convert("RGB")
            drawn.thumbnail((SIDE, SIDE))
            pictures.append(drawn)
    if path.suffix.lower() not in Image.registered_extensions():
        raise DataError(f"{path}: a picture ends in .jpg or .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    _side_by_side(pictures).save(path)
    return len(pictures)


def _side_by_side(pictures: list[Image.Image]) -> Image.Image:
    """Rows of `COLUMNS`, each as high as its highest picture."""
    rows = [pictures[k : k + COLUMNS] for k in range(0, len(pictures), COLUMNS)]
    heights = [max(picture.height for picture in row) + GAP for row in rows]
    width = max((sum(picture.width + GAP for picture in row) for row in rows), default=SIDE)
    sheet = Image.new("RGB", (width, sum(heights) or SIDE), "white")
    for number, row in enumerate(rows):
        left = 0
        for picture in row:
            sheet.paste(picture, (left, sum(heights[:number])))
            left += picture.width + GAP
    return sheet


def picture_of(data: Dataset, info: ImageInfo) -> Image.Image | None:
    """The image as its annotations see it (EXIF rotation, CMYK); None where the spec lets broken ones be skipped."""
    (path,) = find_images(data.source.images, [info.file_name])
    try:
        size = (info.height, info.width) if info.height else None  # class folders say no sizes
        pixels = read_image(path or data.source.images / info.file_name, size)
    except DataError:
        if data.broken_images == "refuse":
            raise
        return None
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())
