"""From a decoded image and its boxes and masks to what the network sees. No hidden randomness: draws are arguments."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from piip.data import memory
from piip.data.transforms.limits import MIN_SIDE

# H W height and width in pixels, n objects of an image


def resized_size(height: int, width: int, limits: tuple[float, float], *, scale: float = 1.0) -> tuple[int, int]:
    """Height and width after resizing with the proportions kept, as large as both limits allow.

    `limits`, times `scale`, are of the long and of the short side: a 480 x 640 image at (1568, 941) becomes 941 x 1255.
    """
    long_limit, short_limit = (limit * scale for limit in limits)
    factor = min(long_limit / max(height, width), short_limit / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(3, H, W) uint8 to (3, *size), bilinear with antialiasing."""
    return F.resize(tv_tensors.Image(image), list(size), interpolation=InterpolationMode.BILINEAR, antialias=True)


def boxes_of(corners: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, 4) xyxy corners as boxes that know the (height, width) of their image, as the functions below want them."""
    return tv_tensors.BoundingBoxes(corners, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=size)  # pyright: ignore[reportCallIssue]


def resize_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, 4) boxes of an image that is resized to `size`."""
    return F.resize(boxes, list(size))


def usable(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Plain (n, 4) boxes clamped to their image, and a mask (n,) of those at least MIN_SIDE wide and high."""
    clamped = F.clamp_bounding_boxes(boxes).as_subclass(Tensor)
    return clamped, ((clamped[:, 2:] - clamped[:, :2]) >= MIN_SIDE).all(dim=1)


def normalise(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(3, H, W) uint8 to float32, by mean and std in 0..255."""
    pixels = memory.empty(tuple(image.shape), torch.float32).copy_(image.as_subclass(Tensor))
    return F.normalize(pixels, list(mean), list(std), inplace=True)


def pad(images: Sequence[Tensor], multiple: int, *, least: int = 0) -> Tensor:
    """(B, 3, H', W') of normalised images; the sides are the least multiples of `multiple` that hold the largest, and `least` pixels.

    Zeros go right and below. They are the mean colour, as padding comes after normalisation.
    """
    height = math.ceil(max(least, *(image.shape[1] for image in images)) / multiple) * multiple
    width = math.ceil(max(least, *(image.shape[2] for image in images)) / multiple) * multiple
    if len(images) == 1 and images[0].shape[1:] == (height, width):
        return images[0][None]
    batch = memory.empty((len(images), images[0].shape[0], height, width), images[0].dtype)
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
        row[:, image.shape[1] :] = 0
        row[:, : image.shape[1], image.shape[2] :] = 0
    return batch
