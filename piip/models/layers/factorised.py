"""MPViT's layer: attention whose cost is linear in the number of tokens (arXiv 2112.11010, 2104.06399), and an MLP."""

import torch
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from piip.spec.mpvit import HEADS, NEIGHBOURHOODS

# B batch, H W map, N = H * W tokens, C channels, h heads, c channels of a head


class Neighbours(nn.Module):
    """What values stand around a pixel: depthwise convolutions, larger ones for later heads; a relative position encoding.

    In a network of C channels a head's values are c = C / 8 channels in a row.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [heads * channels // HEADS for _, heads in NEIGHBOURHOODS]
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, side, padding=side // 2, groups=width)
            for width, (side, _) in zip(widths, NEIGHBOURHOODS, strict=True)
        )
        self.widths = widths

    def forward(self, value_BHWC: Tensor) -> Tensor:
        """The same shape."""
        parts = value_BHWC.permute(0, 3, 1, 2).split(self.widths, dim=1)
        found = torch.cat([conv(part) for conv, part in zip(self.convs, parts, strict=True)], dim=1)
        return found.permute(0, 2, 3, 1)


class FactorisedLayer(nn.Module):
    """Attention and an MLP, each behind a norm and with a residual."""

    def __init__(self, channels: int, mlp_ratio: float, rate: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(channels, eps=1e-6) for _ in range(2))
        self.attention = FactorisedAttention(channels)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))
        self.drop_path = DropPath(rate)

    def forward(self, x_BHWC: Tensor, neighbours: Neighbours) -> Tensor:
        """The same shape."""
        x_BHWC = x_BHWC + self.drop_path(self.attention(self.norm1(x_BHWC), neighbours))
        return x_BHWC + self.drop_path(self.mlp(self.norm2(x_BHWC)))


class FactorisedAttention(nn.Module):
    """Attention whose cost grows with the number of tokens: keys are weights over tokens, values are summed by them first.

    Added to it, unscaled, is the query times what values stand around it (`Neighbours`).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = (channels // HEADS) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x_BHWC: Tensor, neighbours: Neighbours) -> Tensor:
        """The same shape."""
        query_BHWC, key_BHWC, value_BHWC = self.qkv(x_BHWC).chunk(3, dim=-1)
        weights_BNC = key_BHWC.flatten(1, 2).softmax(dim=1)  # each channel of each head by itself
        context_Bhcc = _by_head(weights_BNC).transpose(2, 3) @ _by_head(value_BHWC.flatten(1, 2))
        # the scale goes to the small matrix, not to all tokens
        found_BhNc = _by_head(query_BHWC.flatten(1, 2)) @ (context_Bhcc * self.scale)
        found_BHWC = found_BhNc.transpose(1, 2).reshape(query_BHWC.shape)
        return self.proj(torch.addcmul(found_BHWC, query_BHWC, neighbours(value_BHWC)))


def _by_head(x_BNC: Tensor) -> Tensor:
    return x_BNC.unflatten(-1, (HEADS, -1)).transpose(1, 2)
