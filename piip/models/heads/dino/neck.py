"""The backbone's maps, and a coarser one, in the same channels: mmdetection's ChannelMapper."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn


class ChannelMapper(nn.Module):
    """One map more than it is given, all of `width` channels, each normalised in groups.

    Args:
        channels: Of the given maps.
        width: Of the maps it makes.
        groups: Of the norms.
    """

    def __init__(self, channels: Sequence[int], width: int, groups: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv_norm(given, width, groups, kernel=1) for given in channels)
        # of the backbone's last map, not of what the neck makes of it
        self.extra = _conv_norm(channels[-1], width, groups, kernel=3, stride=2)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C_i, H_i, W_i), fine to coarse -> maps (B, width, H_i, W_i), and one of half the last one's height and width."""
        return [*(conv(feature) for conv, feature in zip(self.convs, maps, strict=True)), self.extra(maps[-1])]


def _conv_norm(channels: int, width: int, groups: int, *, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.xavier_uniform_(conv.weight)
    return nn.Sequential(OrderedDict(conv=conv, gn=nn.GroupNorm(groups, width)))
