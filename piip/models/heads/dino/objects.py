"""What there is in a batch's images, in the form that denoising, matching and losses take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert

from piip.contracts import Size

# B batch, M objects of the batch's fullest image


@dataclass(frozen=True)
class Objects:
    """What there is in the images of a batch, each filled up to the fullest one's number."""

    labels: Tensor
    """(B, M) int64, from 0."""
    boxes: Tensor
    """(B, M, 4) centre x, y, width, height in 0..1 of the content."""
    present: Tensor
    """(B, M) False where an image is filled up, behind its own."""
    sizes: Tensor
    """(B, 4) width, height, width, height of the content in pixels."""

    @classmethod
    def of(cls, targets: Sequence[Mapping[str, Tensor]], sizes: Sequence[Size]) -> Self:
        """From what data sets give: boxes (n, 4) xyxy in pixels and labels (n,) from 1, of every image.

        Args:
            targets: One an image; n may be 0.
            sizes: Height and width of every image's content.
        """
        pixels = pad_sequence([target["boxes"] for target in targets], batch_first=True)
        labels = pad_sequence([target["labels"] for target in targets], batch_first=True)
        whole = sides(sizes, pixels)
        boxes = box_convert(pixels / whole[:, None], "xyxy", "cxcywh")
        return cls(labels.clamp(min=1) - 1, boxes, labels > 0, whole)


def sides(sizes: Sequence[Size], like: Tensor) -> Tensor:
    """(B, 4) width, height, width, height, of the type and on the device of `like`."""
    return like.new_tensor([[width, height, width, height] for height, width in sizes])


def corners(boxes: Tensor, sides: Tensor) -> Tensor:
    """Centre x, y, width, height in 0..1 of an image with these `sides` -> xyxy in its pixels; (..., 4) all three."""
    return box_convert(boxes, "cxcywh", "xyxy") * sides
