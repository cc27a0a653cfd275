"""Image files of any kind to RGB tensors."""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from piip.data.sources import DataError


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
            directory = folder / below
            names = os.listdir(directory) if directory.is_dir() else []
            listed[below] = {unicodedata.normalize("NFC", entry): entry for entry in names}
        entry = listed[below].get(unicodedata.normalize("NFC", name))
        paths.append(folder / below / entry if entry else None)
    return paths


def read_image(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """The image as (3, H, W) uint8 RGB: grey, palette, CMYK, 16 bit and alpha converted, EXIF rotation as annotated.

    COCO's coordinates count in pixels of the width and height its JSON gives. Cameras store some images turned, with an
    EXIF note; annotators mostly saw them upright. So whichever of the two, upright first, has the JSON's size is used.

    Args:
        path: The file.
        size: (height, width) the annotations are in; None takes the image upright.

    Raises:
        DataError: Missing, not an image, truncated, or of neither size.
    """
    try:
        with Image.open(path) as stored:
            upright = ImageOps.exif_transpose(stored)
            image = upright
            if size is not None and _size(upright) != size:
                image = stored
                image.load()
            if size is not None and _size(image) != size:
                raise SizeMismatchError(f"{path} is {_size(stored)} (height, width), but its annotations say {size}")
            pixels = np.array(_rgb(image))
    except FileNotFoundError:
        raise DataError(f"image not found: {path}") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image ({path.stat().st_size} bytes)") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # PIL raises SyntaxError for broken PNGs
        raise DataError(f"{path}: cannot be decoded ({error})") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _size(image: Image.Image) -> tuple[int, int]:
    return image.height, image.width


def _rgb(image: Image.Image) -> Image.Image:
    """Three channels of 8 bits."""
    if image.mode.startswith(("I", "F")):
        # 16-bit grey: PIL's own conversion clips everything above 255 to white.
        values = np.asarray(image, dtype=np.float32)
        scale = 257.0 if values.max(initial=0) > 255 else 1.0
        image = Image.fromarray((values / scale).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")
