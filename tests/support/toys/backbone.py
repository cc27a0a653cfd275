"""A backbone of two convolutions (piip/models/backbones/toy.py)."""

from torch import Tensor, nn

from piip.contracts import Wish
from piip.models.backbones.wishes import STRIDES, strides_of
from piip.spec.backbones import ToySpec


class Toy(nn.Module):
    """Image -> maps at any strides, each by one convolution of its stride."""

    def __init__(self, spec: ToySpec, wish: Wish) -> None:
        super().__init__()
        self.strides = strides_of(wish, STRIDES, what="a toy")
        self.out_channels = [spec.width] * len(self.strides)
        self.convs = nn.ModuleList(nn.Conv2d(3, spec.width, stride, stride) for stride in self.strides)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps (B, width, H / s, W / s)."""
        return [conv(images).relu() for conv in self.convs]

    def layer_ids(self, *, exact: bool = False) -> dict[str, float]:
        """No decay."""
        return {name: 0 for name, _ in self.named_parameters()}

    def part_of(self, name: str) -> str:
        """One row of the cost table."""
        return "backbone"
