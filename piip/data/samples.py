"""What data hands to a model: an image's identity, a sample, a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from piip.data.transforms import detection as transforms

Target = dict[str, Tensor]
"""boxes (n, 4) float32 xyxy in input pixels, labels (n,) int64 from 1; where masks are learned mask_runs (R, 4) int32, as
piip/ops/mask_runs.py reads them; where keypoints are, keypoints (n, K, 3) float32 x, y in input pixels, visible above 0."""


@dataclass(frozen=True)
class ImageInfo:
    """Which image a sample is, and how its pixels became the network's."""

    image_id: int
    file_name: str
    height: int
    width: int
    """Size of the file's image, in pixels."""
    scale: tuple[float, float] = (1.0, 1.0)
    """(y, x) input / original, so original = input / scale."""


@dataclass(frozen=True)
class Sample:
    """One image, ready but for padding."""

    image: Tensor
    """(3, h, w) float32, normalised."""
    target: Target | None
    """None in evaluation."""
    info: ImageInfo
    file: Tensor | None = None
    """(3, H, W) uint8, the whole image in the file's pixels: where evaluation takes several views of it (`SeveralViews`)."""


@dataclass(frozen=True)
class Batch:
    """Images padded to one shape, and what is known of them."""

    images: Tensor
    """(B, 3, H, W) float32, zero right of and below the content."""
    sizes: list[tuple[int, int]]
    """(h, w) of the content."""
    targets: list[Target]
    """Empty in evaluation."""
    infos: list[ImageInfo]
    files: list[Tensor] = field(default_factory=list)
    """`Sample.file` of each, where evaluation takes several views; they stay where they were made."""

    @classmethod
    def of(cls, samples: Sequence[Sample], pad_multiple: int, *, least: int = 0) -> Self:
        """Pads and stacks samples, to sides of at least `least` pixels."""
        return cls(
            images=transforms.pad([sample.image for sample in samples], pad_multiple, least=least),
            sizes=[(sample.image.shape[1], sample.image.shape[2]) for sample in samples],
            targets=[sample.target for sample in samples if sample.target is not None],
            infos=[sample.info for sample in samples],
            files=[sample.file for sample in samples if sample.file is not None],
        )

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory, from which `to` copies to a GPU while the CPU goes on."""
        return type(self)(
            images=self.images.pin_memory(),
            sizes=self.sizes,
            targets=[{k: v.pin_memory() for k, v in target.items()} for target in self.targets],
            infos=self.infos,
            files=self.files,
        )

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device."""
        return type(self)(
            images=self.images.to(device, non_blocking=True),
            sizes=self.sizes,
            targets=[{k: v.to(device, non_blocking=True) for k, v in target.items()} for target in self.targets],
            infos=self.infos,
            files=self.files,
        )
