"""Attention to a pyramid of maps: every query looks at a few places on each level."""

import math

import torch
from torch import Tensor, nn

from piip.contracts import Size
from piip.models.precision import at_least_fp32, without_autocast
from piip.ops.msda import msda

# B batch, Q queries, S cells of all levels, N heads, L levels, P points, C channels


class PyramidAttention(nn.Module):
    """Deformable attention over several levels (Deformable DETR, arXiv 2010.04159).

    Where queries look and how they weigh what they find stays in fp32 under autocast: in bf16 a place moves in steps of 1/256 of the
    image.

    Args:
        dim: Channels of queries, maps and output.
        num_heads: Heads, of dim / num_heads channels each.
        num_levels: Levels of the pyramid.
        num_points: Places per head and level.
    """

    def __init__(self, dim: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.kernel = "auto"  # see SpeedSpec
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(dim, samples * 2)
        self.attention_weights = nn.Linear(dim, samples)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Head n looks in direction 2 pi n / N, point p at p + 1 cells on the unit square, alike on all levels."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle_N = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        direction_N2 = torch.stack([angle_N.cos(), angle_N.sin()], dim=-1)
        direction_N2 = direction_N2 / direction_N2.abs().amax(dim=-1, keepdim=True)
        bias_NP2 = direction_N2[:, None] * torch.arange(1, self.num_points + 1)[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias_NP2[:, None].expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self, query: Tensor, reference: Tensor, pyramid: Tensor, shapes: list[Size], padding: Tensor | None
    ) -> Tensor:
        """What each query finds.

        Args:
            query: (B, Q, C).
            reference: (B, Q, L, 2) x, y around which it looks, in 0..1 of each level's map; or (B, Q, L, 4) with the width and the
                height that its offsets are parts of.
            pyramid: (B, S, C) cells of all levels.
            shapes: Rows and columns of each level.
            padding: (B, S) True where there is nothing to find; None: nowhere.

        Returns:
            (B, Q, C).
        """
        value = self.value_proj(pyramid)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0.0)
        with without_autocast(query.device):
            query = at_least_fp32(query)
            offsets = self.sampling_offsets(query).unflatten(-1, (self.num_heads, self.num_levels, self.num_points, 2))
            weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1)).softmax(-1)
            locations = self._locations(at_least_fp32(reference), offsets, shapes)
            weights = weights.unflatten(-1, (self.num_levels, self.num_points))
            found = msda(value.unflatten(-1, (self.num_heads, -1)), shapes, locations, weights, kernel=self.kernel)
        return self.output_proj(found)

    def _locations(self, reference: Tensor, offsets: Tensor, shapes: list[Size]) -> Tensor:
        """(B, Q, N, L, P, 2): offsets are cells, or, of a reference with a size, parts of half of it."""
        place = reference[:, :, None, :, None, :2]
        if reference.shape[-1] == 4:
            return place + offsets / self.num_points * reference[:, :, None, :, None, 2:] * 0.5
        size_L2 = torch.tensor([shape[::-1] for shape in shapes], device=offsets.device, dtype=offsets.dtype)
        return place + offsets / size_L2[:, None]
