"""How two neighbouring branches exchange features: cross-attention, deformable as released or dense, both ways (paper section 3.2)."""

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from piip.models.precision import at_least_fp32, without_autocast
from piip.ops.deform_attn_packed import deform_attn_packed
from piip.ops.deform_attn_pair import Direction, deform_attn_pair
from piip.spec import InteractionSpec
from piip.weights.resizing import Grid

# B batch, Q queries, K keys, N heads, P points, C channels, D channels per head


def init_linear_and_conv(module: nn.Module) -> None:
    """The published initialisation of everything that is not pretrained; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class DeformableCrossAttention(nn.Module):
    """Every query looks at `num_points` places per head, around its own position, in the neighbour's map.

    Offsets and the softmax over points stay in fp32 under autocast: an offset of a few pixels in bf16 moves in steps of 1/64 px.
    Without `fp32_offsets` their product is in bf16 and their bias, which holds most of those pixels, is added in fp32. With `fp32` set
    all four linear layers are in fp32, as in the official code.

    Args:
        query_dim: Channels of the queries and of the output.
        feature_dim: Channels of the map that is looked at.
    """

    def __init__(self, query_dim: int, feature_dim: int, spec: InteractionSpec) -> None:
        super().__init__()
        width = int(query_dim * spec.value_ratio)
        if width == 0 or width % spec.num_heads:
            fits = [n for n in range(1, width + 1) if width % n == 0]
            raise ValueError(
                f"interaction.num_heads {spec.num_heads} does not divide the value width {width} = "
                f"int({query_dim} channels * value_ratio {spec.value_ratio}). Heads that fit: {fits}"
            )
        self.num_heads, self.num_points = spec.num_heads, spec.num_points
        self.kernel = "auto"  # see SpeedSpec
        self.width, self.fp32, self.fp32_offsets = width, False, True
        self.sampling_offsets = nn.Linear(query_dim, self.num_heads * self.num_points * 2)
        self.attention_weights = nn.Linear(query_dim, self.num_heads * self.num_points)
        self.value_proj = nn.Linear(feature_dim, width)
        self.output_proj = nn.Linear(width, query_dim)

    def reset_parameters(self) -> None:
        """As in Deformable DETR: head n looks in direction 2 pi n / N, point p at p + 1 pixels on the unit square."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle_N = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        direction_N2 = torch.stack([angle_N.cos(), angle_N.sin()], dim=-1)
        direction_N2 = direction_N2 / direction_N2.abs().amax(dim=-1, keepdim=True)
        bias_NP2 = direction_N2[:, None] * torch.arange(1, self.num_points + 1)[None, :, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias_NP2.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query: Tensor, feature: Tensor, query_grid: Grid, feature_grid: Grid) -> Tensor:
        """Queries (B, Q, query_dim) and a map (B, K, feature_dim) -> (B, Q, query_dim)."""
        direction = self.prepare(query, feature, query_grid, feature_grid)
        with without_autocast(query.device):
            sampled = deform_attn_packed(*direction, kernel=self.kernel)
        return self.project(sampled)

    def prepare(self, query: Tensor, feature: Tensor, query_grid: Grid, feature_grid: Grid) -> Direction:
        """What is looked at, and where."""
        with without_autocast(query.device) if self.fp32 else nullcontext():
            if self.fp32:
                query, feature = at_least_fp32(query), at_least_fp32(feature)
            value_BKND = self.value_proj(feature).unflatten(-1, (self.num_heads, -1))
            return Direction(value_BKND, self._offsets_and_logits(query), feature_grid, query_grid)

    def project(self, sampled: Tensor) -> Tensor:
        """What was found, in the query's channels."""
        with without_autocast(sampled.device) if self.fp32 else nullcontext():
            return self.output_proj(sampled)

    def _offsets_and_logits(self, query: Tensor) -> Tensor:
        """What the two layers give, side by side: (B, Q, 3 * N * P) in fp32 (float64 in a network of float64), by one product."""
        layers = self.sampling_offsets, self.attention_weights
        if hasattr(layers[0].weight, "ds_status"):  # ZeRO-3 gathers a layer's weights for that layer's own call only
            with without_autocast(query.device):
                return torch.cat([layer(at_least_fp32(query)) for layer in layers], dim=-1)
        weight, bias = (torch.cat(both) for both in zip(*((x.weight, x.bias) for x in layers), strict=True))
        if not self.fp32_offsets and torch.is_autocast_enabled(query.device.type):
            return F.linear(query, weight) + bias
        with without_autocast(query.device):
            return F.linear(at_least_fp32(query), weight, bias)


class DenseCrossAttention(nn.Module):
    """Every query looks at the neighbour's whole map: the paper's ablation; costs grow with the product of both grids.

    Args:
        query_dim: Channels of the queries and of the output.
        feature_dim: Channels of the map that is looked at.
    """

    def __init__(self, query_dim: int, feature_dim: int, spec: InteractionSpec) -> None:
        super().__init__()
        if query_dim % spec.num_heads:
            fits = [n for n in range(1, query_dim + 1) if query_dim % n == 0]
            raise ValueError(
                f"interaction.num_heads {spec.num_heads} does not divide {query_dim} channels. Heads that fit: {fits}"
            )
        self.num_heads = spec.num_heads
        self.wq = nn.Linear(query_dim, query_dim, bias=False)
        self.wk = nn.Linear(feature_dim, query_dim, bias=False)
        self.wv = nn.Linear(feature_dim, query_dim, bias=False)
        self.proj = nn.Linear(query_dim, query_dim)

    def forward(self, query: Tensor, feature: Tensor, query_grid: Grid, feature_grid: Grid) -> Tensor:
        """Queries (B, Q, query_dim) and a map (B, K, feature_dim) -> (B, Q, query_dim)."""
        projected = self.wq(query), self.wk(feature), self.wv(feature)
        query_BNQD, key_BNKD, value_BNKD = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in projected)
        attended_BNQD = F.scaled_dot_product_attention(query_BNQD, key_BNKD, value_BNKD)
        return self.proj(attended_BNQD.transpose(1, 2).flatten(2))


Asked = tuple[Tensor, Tensor, Grid, Grid]
"""Queries, the map that is looked at, and their grids."""


def attend_both(one: nn.Module, asked: Asked, other: nn.Module, asked_of_other: Asked) -> tuple[Tensor, Tensor]:
    """What two cross-attentions find; deformable ones in one launch, where that pays."""
    if not isinstance(one, DeformableCrossAttention) or not isinstance(other, DeformableCrossAttention):
        return one(*asked), other(*asked_of_other)
    directions = one.prepare(*asked), other.prepare(*asked_of_other)
    with without_autocast(asked[0].device):
        sampled = deform_attn_pair(*directions, kernel=one.kernel)
    return one.project(sampled[0]), other.project(sampled[1])


class ConvFFN(nn.Module):
    """Two linear layers with a 3x3 depthwise convolution between them.

    Shape:
        tokens: (B, H*W, dim); returns the same.
    """

    contiguous = False  # the convolution's input is copied channels first, see SpeedSpec.layout

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """The transformed tokens, without the residual."""
        hidden = self.fc1(tokens).transpose(1, 2).unflatten(2, grid)
        hidden = self.dwconv(hidden.contiguous() if self.contiguous else hidden).flatten(2).transpose(1, 2)
        return self.fc2(F.gelu(hidden))


class Injector(nn.Module):
    """Adds to the tokens of one branch what they find in the neighbour's map. The identity at initialisation.

    Its unit asks `attn`, for both of its injectors at once.

    Shape:
        query: (B, Q, dim) tokens of the branch; returns the same.
        found: (B, Q, dim) what `attn` found for them.
    """

    def __init__(self, dim: int, feature_dim: int, spec: InteractionSpec) -> None:
        super().__init__()
        attention = DeformableCrossAttention if spec.attention == "deformable" else DenseCrossAttention
        self.query_norm = _norm(dim, spec)
        self.feat_norm = _norm(feature_dim, spec)
        self.attn = attention(dim, feature_dim, spec)
        self.ca_gamma = nn.Parameter(torch.zeros(dim))
        self.ffn = ConvFFN(dim, int(dim * spec.ffn_ratio)) if spec.ffn else None
        if spec.ffn:
            self.ffn_norm = _norm(dim, spec)
            self.cffn_gamma = nn.Parameter(torch.zeros(dim))
            self.drop_path = DropPath(spec.drop_path)

    def forward(self, query: Tensor, found: Tensor, query_grid: Grid) -> Tensor:
        """The updated tokens."""
        query = query + self.ca_gamma * found
        if self.ffn is None:
            return query
        return query + self.cffn_gamma * self.drop_path(self.ffn(self.ffn_norm(query), query_grid))


class InteractionUnit(nn.Module):
    """Two neighbouring branches exchange features.

    Each branch asks the other: its tokens are queries, the neighbour's map, projected to the query's width, is looked at. Both
    directions read the tokens from before the exchange. In the "faster training" form (spec.projection and spec.norms off) the
    attention's own value projection does that work.

    Args:
        high_dim: Channels of the higher-resolution branch.
        low_dim: Channels of the lower-resolution branch.

    Shape:
        high: (B, H1*W1, high_dim); low: (B, H2*W2, low_dim); returns both.
    """

    def __init__(self, high_dim: int, low_dim: int, spec: InteractionSpec) -> None:
        super().__init__()
        self.projection = spec.projection
        if spec.projection:
            self.proj_to_high = nn.Linear(low_dim, high_dim)
            self.proj_to_low = nn.Linear(high_dim, low_dim)
        self.to_high = Injector(high_dim, high_dim if spec.projection else low_dim, spec)
        self.to_low = Injector(low_dim, low_dim if spec.projection else high_dim, spec)
        self.apply(init_linear_and_conv)
        for injector in (self.to_high, self.to_low):
            if isinstance(injector.attn, DeformableCrossAttention):
                injector.attn.reset_parameters()

    def forward(self, high: Tensor, low: Tensor, high_grid: Grid, low_grid: Grid) -> tuple[Tensor, Tensor]:
        """Both updated."""
        for_low, for_high = (self.proj_to_low(high), self.proj_to_high(low)) if self.projection else (high, low)
        of_high = self.to_high.query_norm(high), self.to_high.feat_norm(for_high), high_grid, low_grid
        of_low = self.to_low.query_norm(low), self.to_low.feat_norm(for_low), low_grid, high_grid
        found_high, found_low = attend_both(self.to_high.attn, of_high, self.to_low.attn, of_low)
        return self.to_high(high, found_high, high_grid), self.to_low(low, found_low, low_grid)


def _norm(dim: int, spec: InteractionSpec) -> nn.Module:
    return nn.LayerNorm(dim, eps=1e-6) if spec.norms else nn.Identity()
