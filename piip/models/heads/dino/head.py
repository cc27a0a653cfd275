"""DINO (arXiv 2203.03605) with four scales, as in mmdetection: encoder, proposals, decoder, denoising; no anchors and no NMS."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from piip.contracts import Size
from piip.models.heads.dino.decoder import Decoder
from piip.models.heads.dino.denoising import Noised, noise
from piip.models.heads.dino.encoder import Encoder, Selection
from piip.models.heads.dino.losses import losses_of, matched
from piip.models.heads.dino.neck import ChannelMapper
from piip.models.heads.dino.objects import Objects, corners, sides
from piip.models.heads.dino.positions import Grid, grid_of
from piip.models.layers.statistics import mean_over_workers
from piip.models.precision import Fp32Head, at_least_fp32, head_precision
from piip.spec import DINOSpec

STRIDE = 8
"""Of the finest map."""


class DINO(Fp32Head):
    """Maps at strides 8, 16 and 32 -> boxes and classes.

    All of it runs in fp32, as in the official code, neck included. Without `fp32_heads` its layers run under autocast; places, boxes,
    matching and losses stay in fp32.

    Args:
        channels: Of the backbone's three maps.
        spec: Sizes and noise.
    """

    def __init__(self, channels: Sequence[int], spec: DINOSpec) -> None:
        super().__init__()
        self.spec = spec
        levels = len(channels) + 1
        self.neck = ChannelMapper(channels, spec.embed_dim, spec.norm_groups)
        self.encoder = Encoder(spec, levels)
        self.selection = Selection(spec)
        self.decoder = Decoder(spec, levels)

    def forward(
        self, features: Sequence[Tensor], sizes: Sequence[Size], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, predictions in evaluation.

        Args:
            features: Three maps (B, C, H / s, W / s), s = 8, 16, 32.
            sizes: Height and width of every image's content.
            targets: In training, per image: boxes (n, 4) xyxy in pixels, labels (n,) from 1. n may be 0.

        Returns:
            Training: `class`, `box` and `giou` of the last layer (loss_class, ..), of the layers before it together
            (loss_layers_class, ..), of the proposals (loss_proposals_class, ..), and of the noised objects of all layers
            (loss_denoising_class, ..). Evaluation, per image: boxes (K, 4) xyxy in pixels within its content, labels (K,) from 1,
            scores (K,) falling; K is `max_detections`, or all pairs of query and class where they are fewer.
        """
        with head_precision(features[0].device, fp32=self.fp32_heads):
            maps = self._maps(features)
            grid = grid_of(maps, sizes, STRIDE)
            cells = self.encoder(maps, grid)
            proposals = self.selection(cells, grid)
            if not self.training:
                logits, boxes = self.decoder(proposals[1], cells, grid)
                return self._detections(logits[-1].sigmoid(), boxes[-1], sizes)
            assert targets is not None
            objects = Objects.of(targets, sizes)
            noised = noise(objects, self.spec)
            return self._losses(proposals, self.decoder(proposals[1], cells, grid, noised), objects, noised)

    def probe(self, features: Sequence[Tensor]) -> dict[str, Callable[[], Sequence[Tensor]]]:
        """`neck`, `encoder`, `selection`, `decoder`; matching and losses are left out.

        In training the decoder sees as many noised objects as `denoising_queries` allow.
        """
        device, image = features[0].device, (STRIDE * features[0].shape[2], STRIDE * features[0].shape[3])
        maps: list[Tensor] = []
        left: dict[str, Tensor] = {}  # for the next part

        def grid() -> Grid:
            return grid_of(maps, [image] * len(maps[0]), STRIDE)

        def neck() -> Sequence[Tensor]:
            maps[:] = self._maps(features)
            return []

        def encoder() -> Sequence[Tensor]:
            left["cells"] = self.encoder(maps, grid())
            return []

        def selection() -> Sequence[Tensor]:
            logits, left["boxes"] = self.selection(left["cells"], grid())
            return [logits, left["boxes"]]

        def decoder() -> Sequence[Tensor]:
            noised = self._most_noised(features[0]) if self.training else None
            return self.decoder(left.pop("boxes"), left.pop("cells"), grid(), noised)

        def in_precision(part: Callable[[], Sequence[Tensor]]) -> Callable[[], Sequence[Tensor]]:
            def run() -> Sequence[Tensor]:
                with head_precision(device, fp32=self.fp32_heads):
                    return part()

            return run

        parts = {"neck": neck, "encoder": encoder, "selection": selection, "decoder": decoder}
        return {name: in_precision(part) for name, part in parts.items()}

    def _maps(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [at_least_fp32(level) for level in self.neck([at_least_fp32(feature) for feature in features])]

    def _detections(self, scores: Tensor, boxes: Tensor, sizes: Sequence[Size]) -> list[dict[str, Tensor]]:
        """The surest pairs of query and class, of scores (B, Q, K) and boxes (B, Q, 4)."""
        best = scores.flatten(1).topk(min(self.spec.max_detections, scores[0].numel()))
        labels, queries = best.indices % self.spec.num_classes, best.indices // self.spec.num_classes
        whole = sides(sizes, boxes)[:, None]
        pixels = corners(boxes.gather(1, queries[..., None].expand(-1, -1, 4)), whole).clamp(min=0).minimum(whole)
        found = zip(pixels, labels + 1, best.values, strict=True)
        return [{"boxes": box, "labels": label, "scores": score} for box, label, score in found]

    def _losses(
        self,
        proposals: tuple[Tensor, Tensor],
        decoded: tuple[Tensor, Tensor],
        objects: Objects,
        noised: Noised | None,
    ) -> dict[str, Tensor]:
        """All parts; the same keys whatever the batch holds."""
        first, groups = (0, 0) if noised is None else (noised.labels.shape[1], noised.groups)
        asked = [each[:, :, first:] for each in decoded]
        logits, boxes = (torch.cat([one[None], other]) for one, other in zip(proposals, asked, strict=True))
        # an object more than there are queries is nobody's
        counts = objects.present.sum(1)
        positives = torch.stack([counts.clamp(max=logits.shape[2]).sum(), groups * counts.sum()]).to(boxes)
        of_queries, of_noised = mean_over_workers(positives)

        found = losses_of(logits, boxes, matched(logits, boxes, objects), objects, of_queries)
        losses = {f"loss_{name}": value[-1] for name, value in found.items()}
        losses |= {f"loss_layers_{name}": value[1:-1].sum() for name, value in found.items()}
        losses |= {f"loss_proposals_{name}": value[0] for name, value in found.items()}

        logits, boxes = (each[:, :, :first] for each in decoded)
        wanted = objects.labels.new_empty(len(counts), 0) if noised is None else noised.wanted
        found = losses_of(logits, boxes, wanted.expand(len(logits), -1, -1), objects, of_noised)
        return losses | {f"loss_denoising_{name}": value.sum() for name, value in found.items()}

    def _most_noised(self, like: Tensor) -> Noised:
        """One object in as many groups as there may be."""
        box = like.new_full((len(like), 1, 4), 0.5, dtype=torch.float32)
        label = torch.zeros(len(like), 1, dtype=torch.long, device=like.device)
        noised = noise(Objects(label, box, label == 0, box[:, 0]), self.spec)
        assert noised is not None
        return noised
