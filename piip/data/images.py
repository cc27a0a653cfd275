"""Image files of any kind to RGB tensors."""

import io
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from piip.data.files import bytes_in, entries
from piip.data.limits import MOST_PIXELS
from piip.data.packed import content_of, pixels_of
from piip.data.sources import DataError

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""EXIF's orientation -> what makes the image upright; 1 and anything else: it is."""


class SizeMismatchError(DataError):
    """An image that is not of the size its annotations say."""


def find_images(folder: Path, file_names: Iterable[str]) -> list[Path | None]:
    """The path of every image under `folder`, None where there is none; one listing per folder, not a question a file.

    Names are compared in Unicode's composed form: macOS stores é as two characters, annotations mostly as one.
    """
    listed: dict[str, dict[str, str]] = {}
    paths: list[Path | None] = []
    for file_name in file_names:
        below, name = os.path.split(file_name)
        if below not in listed:
            folders, names = entries(folder / below)
            listed[below] = {unicodedata.normalize("NFC", entry): entry for entry in folders + names}
        entry = listed[below].get(unicodedata.normalize("NFC", name))
        paths.append(folder / below / entry if entry else None)
    return paths


def nearly(folder: Path, file_name: str) -> str:
    """Advice on an image that is not in `folder`, to be put behind a sentence: which file may be meant."""
    wanted = file_name.replace("\\", "/").rpartition("/")[2].casefold()
    there = sorted(chain(*entries(folder)))
    alike = next((entry for entry in there if entry.casefold() == wanted), None)
    return f"; {alike!r} is there: names are paths below the folder, with /, letter by letter" if alike else ""


@contextmanager
def opened(path: Path, what: str = "image") -> Iterator[Image.Image]:
    """An image file. Whatever is wrong with it, there or in what the caller has Pillow do with it, names the file.

    Args:
        path: The file.
        what: In messages.

    Raises:
        DataError: Missing, not an image, cut off, damaged, or larger than `MOST_PIXELS`.
    """
    try:
        packed = content_of(path)
        with Image.open(path if packed is None else io.BytesIO(packed)) as stored:
            if stored.height * stored.width > MOST_PIXELS:
                raise Image.DecompressionBombError
            yield stored
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{what} not found: {path}") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image ({bytes_in(path)} bytes)") from None
    except Image.DecompressionBombError:
        raise DataError(
            f"{path}: more than {MOST_PIXELS // 10**6} megapixels, the most that is read. Cut it into tiles or make it smaller, and its "
            "annotations with it"
        ) from None
    except Exception as error:  # decoders raise all there is: OSError, SyntaxError, TypeError, struct.error, ..
        said = str(error) or "no reason given"
        raise DataError(f"{path}: cannot be decoded ({type(error).__name__}: {said})") from None


def read_image(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """The image as (3, H, W) uint8 RGB: grey, palette, CMYK, 16 bit and alpha converted, EXIF rotation as annotated.

    Its memory is in the file's order, colour by colour within a pixel: more than twice as fast to resize, and nothing is copied.

    COCO's coordinates count in pixels of the width and height its JSON gives. Cameras store some images turned, with an
    EXIF note; annotators mostly saw them upright. So whichever of the two, upright first, has the JSON's size is used.

    16 bits become 8 by one rule for all images: 65535 is white, 257 is 1. What says nothing of its range, floating point or whole
    numbers of 32 bits, is refused: a scale guessed from each image would make equal things look different.

    Args:
        path: The file.
        size: (height, width) the annotations are in; None takes the image upright.

    Raises:
        DataError: As `opened`; of neither size; or of pixels without a range.
    """
    if (packed := pixels_of(content_of(path))) is not None and size in (None, packed.shape[:2]):
        return torch.from_numpy(packed.copy()).permute(2, 0, 1)
    with opened(path) as stored:
        turn = TURNS.get(orientation(stored))
        if size is not None and turn is not None and _turned(_size(stored), turn) != size:
            turn = None
        if size is not None and (_size(stored) if turn is None else _turned(_size(stored), turn)) != size:
            raise SizeMismatchError(f"{path} is {_size(stored)} (height, width), but its annotations say {size}")
        upright = stored if turn is None else stored.transpose(turn)
        pixels = np.array(_rgb(upright, path))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def upright_size(path: Path) -> tuple[int, int]:
    """Height and width of an image as `read_image` gives it, by its header alone.

    Raises:
        DataError: As `opened`.
    """
    with opened(path) as stored:
        turn = TURNS.get(orientation(stored))
        return _size(stored) if turn is None else _turned(_size(stored), turn)


def upright_sizes(paths: Sequence[Path]) -> list[tuple[int, int] | DataError]:
    """Of each image its `upright_size`, or why it has none; headers are read by several threads."""

    def size_or_error(path: Path) -> tuple[int, int] | DataError:
        try:
            return upright_size(path)
        except DataError as error:
            return error

    with ThreadPoolExecutor() as pool:
        return list(pool.map(size_or_error, paths))


def orientation(stored: Image.Image) -> int:
    """EXIF's, 1 where there is none that can be read: notes of a camera are no reason to lose its image."""
    try:
        said = stored.getexif().get(0x0112)
    except Exception:  # of bytes that only look like EXIF, Pillow raises SyntaxError, struct.error, ValueError, ..
        return 1
    return said if isinstance(said, int) else 1


def _turned(size: tuple[int, int], turn: Image.Transpose) -> tuple[int, int]:
    sideways = turn in (TURNS[5], TURNS[6], TURNS[7], TURNS[8])
    return (size[1], size[0]) if sideways else size


def _size(image: Image.Image) -> tuple[int, int]:
    return image.height, image.width


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    """Three channels of 8 bits."""
    # Pillow opens greymaps (.pgm) of more than 8 bits as 32, with 65535 as white
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        # its own conversion clips everything above 255 to white
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "floating point" if image.mode == "F" else "whole numbers of 32 bits"
        raise DataError(
            f"{path}: pixels are {kind}, and the file does not say what is white. Save it with 8 or 16 bits"
        )
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()  # what is wrong with the file is raised here, not within NumPy
    return image
