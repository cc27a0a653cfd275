"""What all data sets of image files share: an image that cannot be used is refused, or skipped and counted."""

import logging
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from piip.data.samples import ImageInfo, Sample
from piip.data.sources import DataError, Source

log = logging.getLogger(__name__)


class ImageDataset(ABC):
    """A split whose samples are made from one image file each. A kind of data says how it is read and what training makes of it.

    Args:
        source: Where the split's files are.
        broken_images: What training does with an image that cannot be used; `skip` leaves it out of scores, too.
        training: Targets and augmentation, or neither.
    """

    infos: list[ImageInfo]

    def __init__(self, source: Source, broken_images: Literal["refuse", "skip"], *, training: bool) -> None:
        self.source, self.training = source, training
        self.broken_images: Literal["refuse", "skip"] = broken_images
        self.broken: dict[str, str] = {}
        """Images this process could not use, by file name: why."""
        self._digest: str | None = None

    @abstractmethod
    def _fingerprint(self) -> str:
        """Hex digits of all that decides what is learned or scored, made anew."""

    @abstractmethod
    def _read(self, index: int) -> tuple[Tensor, Any]:
        """The decoded image (3, H, W) uint8 at `index`, and what training is to learn of it.

        Raises:
            DataError: One of the two cannot be used.
        """

    @abstractmethod
    def _augmented(self, image: Tensor, learned: Any, info: ImageInfo, seed: int, index: int) -> Sample:
        """A training sample, from what `_read` gave, by draws from (`seed`, `index`)."""

    @abstractmethod
    def prepare(self, image: Tensor, info: ImageInfo) -> Sample:
        """As `Format.prepare`."""

    def __len__(self) -> int:
        return len(self.infos)

    @property
    def digest(self) -> str:
        """Sixteen hex digits of all that decides what is learned or scored; files are looked at once."""
        if self._digest is None:
            self._digest = self._fingerprint()[:16]
        return self._digest

    def sample(self, index: int, seed: int) -> Sample:
        """The image at `index` with the augmentation that (`index`, `seed`) draws.

        Where it cannot be used and is to be skipped, training gets the next one that can be, so that epochs keep their length, and
        evaluation an error of its own (see EvalLoader).
        """
        image, learned, info = self._usable(index)
        return self._augmented(image, learned, info, seed, index) if self.training else self.prepare(image, info)

    def _usable(self, index: int) -> tuple[Tensor, Any, ImageInfo]:
        """What `_read` gives of the image at `index`, or under `skip` in training of the next one that can be used; and which it is."""
        for offset in range(len(self)):
            at = (index + offset) % len(self)
            try:
                image, learned = self._read(at)
            except DataError as error:
                if self.broken_images == "refuse" or not self.training:
                    raise
                self.note_broken(at, error)
                continue
            return image, learned, replace(self.infos[at], height=image.shape[1], width=image.shape[2])
        raise DataError(f"{self.source.images}: none of {len(self)} images can be used")

    def image_error(self, index: int) -> DataError | None:
        """Why the image at `index`, or what is to be learned of it, cannot be used; None where they can."""
        try:
            self._read(index)
        except DataError as error:
            return error
        return None

    def note_broken(self, index: int, error: DataError) -> None:
        """Counts an image that is skipped; the first time it says so."""
        name = self.infos[index].file_name
        if name not in self.broken:
            log.warning("skipped: %s", error)
        self.broken[name] = str(error)
