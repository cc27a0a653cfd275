"""Queries look at the pyramid around their boxes, layer by layer, and every layer corrects the boxes."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from piip.models.heads.dino.attention import PyramidAttention
from piip.models.heads.dino.denoising import Noised
from piip.models.heads.dino.layers import box_mlp, class_logits, mlp, xavier
from piip.models.heads.dino.positions import Grid, box_sines, logit
from piip.models.precision import at_least_fp32
from piip.spec import DINOSpec

# B batch, Q queries (noised objects before the others), T layers, S cells, L levels, K classes, C channels


class AmongQueries(nn.Module):
    """Attention of queries to each other: where they are decides who looks at whom, and not what is found.

    Torch's MultiheadAttention but for its weights, which lie in layers that are called: ZeRO-3 gathers a layer's weights for that
    layer's own call.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key, self.value, self.out_proj = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        # Xavier's rule for the three projections in one matrix, as there: dim inputs, 3 * dim outputs
        bound = math.sqrt(6 / (4 * dim))
        for layer in (self.query_key, self.value):
            nn.init.uniform_(layer.weight, -bound, bound)
        nn.init.xavier_uniform_(self.out_proj.weight)
        for layer in (self.query_key, self.value, self.out_proj):
            nn.init.zeros_(layer.bias)

    def forward(self, placed: Tensor, query: Tensor, visible: Tensor | None) -> Tensor:
        """Queries (B, Q, C) with and without their positions, and (Q, Q) True where one may look -> (B, Q, C)."""
        asking, asked = self.query_key(placed).chunk(2, -1)
        heads = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (asking, asked, self.value(query)))
        return self.out_proj(F.scaled_dot_product_attention(*heads, attn_mask=visible).transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Attention among queries, attention to the pyramid, an MLP; a LayerNorm after each."""

    def __init__(self, spec: DINOSpec, num_levels: int) -> None:
        super().__init__()
        self.among = AmongQueries(spec.embed_dim, spec.num_heads)
        self.norm1 = nn.LayerNorm(spec.embed_dim)
        self.attention = PyramidAttention(spec.embed_dim, spec.num_heads, num_levels, spec.num_points)
        self.norm2 = nn.LayerNorm(spec.embed_dim)
        self.mlp = mlp(spec.embed_dim, spec.ffn_dim)
        self.norm3 = nn.LayerNorm(spec.embed_dim)

    def forward(
        self, query: Tensor, position: Tensor, reference: Tensor, cells: Tensor, grid: Grid, visible: Tensor | None
    ) -> Tensor:
        """(B, Q, C) -> the same."""
        query = self.norm1(query + self.among(query + position, query, visible))
        found = self.attention(query + position, reference, cells, grid.shapes, grid.padding)
        query = self.norm2(query + found)
        return self.norm3(query + self.mlp(query))


class Decoder(nn.Module):
    """Six layers, by default; what queries ask with is learned, where they begin is proposed.

    A layer's box corrects the last one's and is detached before the next layer looks around it, while the loss of the next layer's box
    reaches this one's correction, too ("look forward twice").
    """

    def __init__(self, spec: DINOSpec, num_levels: int) -> None:
        super().__init__()
        dim = spec.embed_dim
        self.queries = nn.Parameter(torch.randn(spec.num_queries, dim))
        self.labels = nn.Embedding(spec.num_classes, dim)  # what noised objects ask with
        self.layers = nn.ModuleList(DecoderLayer(spec, num_levels) for _ in range(spec.decoder_layers))
        self.position = nn.Sequential(xavier(nn.Linear(2 * dim, dim)), nn.ReLU(), xavier(nn.Linear(dim, dim)))
        self.norm = nn.LayerNorm(dim)
        self.classes = nn.ModuleList(class_logits(spec) for _ in self.layers)
        self.boxes = nn.ModuleList(box_mlp(dim) for _ in self.layers)

    def forward(self, boxes: Tensor, cells: Tensor, grid: Grid, noised: Noised | None = None) -> tuple[Tensor, Tensor]:
        """What becomes of the proposals, and of noised objects before them.

        Args:
            boxes: (B, Q, 4) where queries begin, in 0..1 of the content.
            cells: (B, S, C) of all levels.
            grid: Theirs.
            noised: Objects to be recognised; None: none.

        Returns:
            Logits (T, B, Q, K), and boxes (T, B, Q, 4) as the first ones, of every layer. A tuple and no class of its own: ZeRO-3
            looks for a module's tensors in tuples, lists and dicts.
        """
        query = self.queries[: boxes.shape[1]].repeat(len(boxes), 1, 1)
        boxes, visible = boxes.detach(), None
        if noised is not None:
            asked = self.labels(noised.labels).masked_fill(~noised.present[..., None], 0.0)
            query, boxes = torch.cat([asked, query], 1), torch.cat([noised.boxes, boxes], 1)
            visible = noised.visible(query.shape[1])
        elif self.training:  # nobody reads the labels, and every parameter has a gradient (DDP waits for it)
            query = query + 0.0 * self.labels(torch.zeros(1, dtype=torch.long, device=query.device))
        ratios_BL4 = grid.ratios.repeat(1, 1, 2)
        logits, found, corrected = [], [], boxes
        for layer, classes, correct in zip(self.layers, self.classes, self.boxes, strict=True):
            reference_BQL4 = boxes[:, :, None] * ratios_BL4[:, None]
            position = self.position(box_sines(reference_BQL4[:, :, 0], query.shape[-1] // 2))
            query = layer(query, position, reference_BQL4, cells, grid, visible)
            said = self.norm(query)
            logits.append(at_least_fp32(classes(said)))
            # of the last layer's box with its gradient; the next layer begins at one without
            found.append((at_least_fp32(correct(said)) + logit(corrected)).sigmoid())
            corrected = (at_least_fp32(correct(query)) + logit(boxes)).sigmoid()
            boxes = corrected.detach()
        return torch.stack(logits), torch.stack(found)
