"""Image classification: on the tokens of all branches of a PIIP, or on a map of any backbone."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from piip.contracts import Size
from piip.models.branches.vit import Branch
from piip.models.meeting.interaction import init_linear_and_conv
from piip.models.precision import at_least_fp32
from piip.spec import ClassifierSpec
from piip.weights.resizing import Grid

Answer = dict[str, Tensor] | list[dict[str, Tensor]]
"""{"loss_cls": ()} in training, {"logits": (num_classes,)} an image in evaluation."""


def answer(logits: Tensor, targets: Sequence[Mapping[str, Tensor]] | None) -> Answer:
    """Cross-entropy of logits (B, num_classes) with soft labels, where there are any; else the logits.

    Args:
        logits: Of any precision; the loss is computed in fp32 at least.
        targets: In training, per image: `probabilities` (num_classes,) that sum to one.
    """
    if targets is None:
        return [{"logits": row} for row in logits]
    wanted = torch.stack([target["probabilities"] for target in targets])
    return {"loss_cls": F.cross_entropy(at_least_fp32(logits), wanted)}


class MapClassifier(nn.Module):
    """The mean of one map and a linear layer, as a ResNet ends.

    Args:
        channels: Of the map.
        num_classes: Logits.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(channels, num_classes)

    def forward(
        self,
        features: Sequence[Tensor],
        sizes: Sequence[Size],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> Answer:
        """One map (B, C, H, W) -> see `answer`. `sizes` go unused: images are all of one size."""
        del sizes
        return answer(self.logits(*features), targets)

    def probe(self, features: Sequence[Tensor]) -> dict[str, Callable[[], Sequence[Tensor]]]:
        """`head`: all of it."""
        return {"head": lambda: [self.logits(*features)]}

    def logits(self, feature: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_classes)."""
        return self.head(feature.mean(dim=(2, 3)))


class Classifier(nn.Module):
    """Tokens of all branches -> logits in evaluation, a loss in training.

    Separate heads (released): every branch has its own final norm and linear layer, their logits are averaged. Merged head: all
    tokens on the grid of the first branch, in a weighted sum, then one norm, the mean over the grid and one linear layer.

    Args:
        branches: Of the backbone; with separate heads they were built with `num_classes`, and give up their norms and layers.
        spec: Which of the two, and the token that separate heads read.
    """

    def __init__(self, branches: Sequence[nn.Module], spec: ClassifierSpec) -> None:
        super().__init__()
        vits = [branch for branch in branches if isinstance(branch, Branch)]
        if len(vits) < len(branches):
            raise ValueError("a ConvNeXt branch has no tokens for a classifier: set model.head.reads to 'map'")
        self.head_token = spec.head_token
        self.prefixes = [branch.prefix for branch in vits]
        self.merged, self.own = None, None
        if spec.merge:
            self.merged = MergedHead([branch.embed_dim for branch in vits], spec.num_classes)
            return
        self.own = nn.ModuleList(OwnHead(*branch.release_head()) for branch in vits)
        if spec.head_token == "class" and not all(self.prefixes):
            raise ValueError(
                "model.head.head_token 'class' reads class tokens: set class_token in every branch, or head_token to 'mean'"
            )

    def forward(
        self,
        features: tuple[Sequence[Tensor], Sequence[Grid]],
        sizes: Sequence[Size],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> Answer:
        """Tokens (B, prefix + H_i*W_i, C_i) and grids of every branch -> see `answer`. `sizes` go unused: images are all of one size."""
        del sizes
        return answer(self.logits(*features), targets)

    def probe(self, features: tuple[Sequence[Tensor], Sequence[Grid]]) -> dict[str, Callable[[], Sequence[Tensor]]]:
        """`head`: all of it."""
        return {"head": lambda: [self.logits(*features)]}

    def logits(self, tokens: Sequence[Tensor], grids: Sequence[Grid]) -> Tensor:
        """Tokens (B, prefix + H_i*W_i, C_i) of every branch -> (B, num_classes)."""
        if self.merged is not None:
            return self.merged([t[:, prefix:] for t, prefix in zip(tokens, self.prefixes, strict=True)], grids)
        assert self.own is not None
        return torch.stack(
            [head(self._read(t, p)) for head, t, p in zip(self.own, tokens, self.prefixes, strict=True)]
        ).mean(dim=0)

    def _read(self, tokens: Tensor, prefix: int) -> Tensor:
        """The tokens (B, n, C) that a separate head takes the mean of, after its norm."""
        if self.head_token == "mean":
            return tokens[:, prefix:]
        return tokens[:, :1] if self.head_token == "class" else tokens[:, prefix : prefix + 1]


class OwnHead(nn.Module):
    """The final norm and classifier of one branch."""

    def __init__(self, norm: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.norm, self.head = norm, head

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, n, C) -> logits (B, num_classes) of the mean."""
        return self.head(self.norm(tokens).mean(dim=1))


class MergedHead(nn.Module):
    """Tokens of all branches -> logits."""

    def __init__(self, dims: Sequence[int], num_classes: int) -> None:
        super().__init__()
        width = dims[-1]
        self.projections = nn.ModuleList(TokenMerge(dim, width) for dim in dims[:-1])
        self.last_norm = nn.GroupNorm(32, width)
        self.weights = nn.ParameterList(nn.Parameter(torch.ones(1)) for _ in dims)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)
        self.apply(init_linear_and_conv)

    def forward(self, patches: Sequence[Tensor], grids: Sequence[Grid]) -> Tensor:
        """Tokens (B, H_i*W_i, C_i) and grids -> (B, num_classes)."""
        total = torch.zeros((), device=patches[0].device)
        for merge, weight, tokens, grid in zip(
            [*self.projections, self.last_norm], self.weights, patches, grids, strict=True
        ):
            feature = merge(tokens.transpose(1, 2).unflatten(2, grid))
            if grid != grids[0]:
                feature = F.interpolate(at_least_fp32(feature), size=grids[0], mode="bilinear", align_corners=False)
            total = total + weight * feature
        return self.head(self.norm(total.flatten(2).transpose(1, 2)).mean(dim=1))


class TokenMerge(nn.Module):
    """GroupNorm, a linear layer to the common width, GroupNorm."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(32, dim)
        self.linear = nn.Linear(dim, width)
        self.norm_out = nn.GroupNorm(32, width)

    def forward(self, feature: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, width, H, W)."""
        return self.norm_out(self.linear(self.norm_in(feature).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
