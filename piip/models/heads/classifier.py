"""Image classification on the tokens of all branches of a PIIP."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from piip.models.backbones.piip import PIIP
from piip.models.branches.vit import Branch
from piip.models.meeting.interaction import init_linear_and_conv
from piip.spec import ClassifierSpec
from piip.weights.resizing import Grid


class Classifier(nn.Module):
    """Images -> logits in evaluation, a loss in training.

    Separate heads (released): every branch has its own final norm and linear layer, their logits are averaged. Merged head: all
    tokens on the grid of the first branch, in a weighted sum, then one norm, the mean over the grid and one linear layer.

    Args:
        backbone: With fpn "none"; with separate heads its branches were built with `num_classes`.
        spec: Which of the two, and the token that separate heads read.
    """

    def __init__(self, backbone: PIIP, spec: ClassifierSpec) -> None:
        super().__init__()
        self.backbone = backbone
        self.head_token = spec.head_token
        self.merged_head = (
            MergedHead([b.embed_dim for b in backbone.branches], spec.num_classes) if spec.merge else None
        )
        if not spec.merge and spec.head_token == "class" and not all(b.prefix for b in backbone.branches):
            raise ValueError(
                "head_token 'class' reads class tokens: set class_token in every branch, or head_token to 'mean'"
            )

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """(B, 3, H, W) -> logits (B, num_classes); with targets, labels (B,) or probabilities (B, num_classes), {"loss_cls": ()}."""
        logits = self.logits(*self.backbone.branch_tokens(images))
        return logits if targets is None else {"loss_cls": F.cross_entropy(logits, targets)}

    def logits(self, tokens: Sequence[Tensor], grids: Sequence[Grid]) -> Tensor:
        """Tokens (B, prefix + H_i*W_i, C_i) of every branch -> (B, num_classes)."""
        branches = self.backbone.branches
        if self.merged_head is not None:
            patches = [t[:, branch.prefix :] for t, branch in zip(tokens, branches, strict=True)]
            return self.merged_head(patches, grids)
        return torch.stack([self._own(t, b) for t, b in zip(tokens, branches, strict=True)]).mean(dim=0)

    def _own(self, tokens: Tensor, branch: nn.Module) -> Tensor:
        """One branch's logits."""
        assert isinstance(branch, Branch)
        assert branch.norm is not None
        assert branch.head is not None
        if self.head_token == "mean":
            return branch.head(branch.norm(tokens[:, branch.prefix :]).mean(dim=1))
        return branch.head(branch.norm(tokens[:, 0 if self.head_token == "class" else branch.prefix]))


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
                feature = F.interpolate(feature.float(), size=grids[0], mode="bilinear", align_corners=False)
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
