"""Cells of all levels look around in the pyramid; then the likeliest of them become the decoder's first boxes."""

import torch
from torch import Tensor, nn

from piip.models.heads.dino.attention import PyramidAttention
from piip.models.heads.dino.layers import box_mlp, class_logits, mlp, xavier
from piip.models.heads.dino.positions import Grid, grid_sines
from piip.models.precision import at_least_fp32
from piip.spec import DINOSpec

# B batch, S cells of all levels, L levels, Q queries, K classes, C channels


class EncoderLayer(nn.Module):
    """Attention to the pyramid, then an MLP; a LayerNorm after each."""

    def __init__(self, spec: DINOSpec, num_levels: int) -> None:
        super().__init__()
        self.attention = PyramidAttention(spec.embed_dim, spec.num_heads, num_levels, spec.num_points)
        self.norm1 = nn.LayerNorm(spec.embed_dim)
        self.mlp = mlp(spec.embed_dim, spec.ffn_dim)
        self.norm2 = nn.LayerNorm(spec.embed_dim)

    def forward(self, cells: Tensor, position: Tensor, reference: Tensor, grid: Grid) -> Tensor:
        """(B, S, C) -> the same."""
        found = self.attention(cells + position, reference, cells, grid.shapes, grid.padding)
        cells = self.norm1(cells + found)
        return self.norm2(cells + self.mlp(cells))


class Encoder(nn.Module):
    """Six layers, by default, in which every cell of every level looks at all levels around its own place."""

    def __init__(self, spec: DINOSpec, num_levels: int) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.randn(num_levels, spec.embed_dim))
        self.layers = nn.ModuleList(EncoderLayer(spec, num_levels) for _ in range(spec.encoder_layers))

    def forward(self, maps: list[Tensor], grid: Grid) -> Tensor:
        """Maps (B, C, H_l, W_l), fine to coarse -> (B, S, C) cells of all levels."""
        cells = torch.cat([feature.flatten(2).transpose(1, 2) for feature in maps], 1)
        position = grid_sines(grid, cells.shape[-1]) + self.level_embed[grid.level_of]
        reference_BSL2 = grid.centres[:, :, None] * grid.ratios[:, None]
        for layer in self.layers:
            cells = layer(cells, position, reference_BSL2, grid)
        return cells


class Selection(nn.Module):
    """Every cell proposes a box around itself; those with the surest class are kept (two-stage, "mixed" query selection).

    Their boxes alone go on to the decoder: what it asks with is learned.
    """

    def __init__(self, spec: DINOSpec) -> None:
        super().__init__()
        self.num_queries = spec.num_queries
        self.linear = xavier(nn.Linear(spec.embed_dim, spec.embed_dim))
        self.norm = nn.LayerNorm(spec.embed_dim)
        self.classes = class_logits(spec)
        self.boxes = box_mlp(spec.embed_dim)

    def forward(self, cells: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """The best proposals of all cells.

        Args:
            cells: (B, S, C).
            grid: Theirs.

        Returns:
            Logits (B, Q, K), and boxes (B, Q, 4), centre x, y, width, height in 0..1 of the content; Q is `num_queries`, or S where
            there are fewer cells.
        """
        own_BS4 = self._own_boxes(grid)
        # padding, and what is so near an edge that its box would leave the image, proposes nothing
        possible = ((own_BS4 > 0.01) & (own_BS4 < 0.99)).all(-1, keepdim=True)
        before_sigmoid = (own_BS4 / (1 - own_BS4)).log().masked_fill(~possible, torch.inf)
        seen = self.norm(self.linear(cells.masked_fill(~possible, 0.0)))
        logits = at_least_fp32(self.classes(seen))
        boxes = (at_least_fp32(self.boxes(seen)) + before_sigmoid).sigmoid()
        best_BQ1 = logits.amax(-1).topk(min(self.num_queries, logits.shape[1]), dim=1).indices[..., None]
        best = best_BQ1.expand(-1, -1, logits.shape[-1])
        return logits.gather(1, best), boxes.gather(1, best_BQ1.expand(-1, -1, 4))

    def _own_boxes(self, grid: Grid) -> Tensor:
        """(B, S, 4) around a cell's centre, .05 of the image's sides on the finest level, twice as large on each other."""
        side_S = 0.05 * 2.0 ** grid.level_of.to(grid.centres)
        return torch.cat([grid.centres, side_S[None, :, None].expand(len(grid.centres), -1, 2)], -1)
