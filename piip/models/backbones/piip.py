"""PIIP: parameter-inverted image pyramid networks, any number of branches."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from piip.contracts import Input, Maps, Tokens, Wish
from piip.models.backbones.streams import side_by_side
from piip.models.backbones.wishes import STRIDES, strides_of
from piip.models.branches.convnext import ConvNeXtBranch
from piip.models.branches.vit import Branch
from piip.models.meeting.interaction import InteractionUnit
from piip.models.meeting.merge import Merge, SimplePyramid
from piip.spec import BranchSpec, PIIPSpec
from piip.weights.resizing import Grid

MergePoint = tuple[Sequence[Tensor], Sequence[Grid]]
"""Tokens (B, prefix + H_i*W_i, C_i) of every branch, and their grids."""


class PIIP(nn.Module):
    """Image -> the maps a head asks for, or the tokens of all branches.

    Every branch sees the image at its own resolution. After each share of the blocks, neighbouring branches exchange features;
    at the end all are merged on the grid of the first branch (the largest image) with the channels of the last (the largest
    network). With spec.fpn "regular" they are merged three times on the way, too, one merge per map.

    Args:
        branches: From high to low resolution, that is from the smallest to the largest network.
        spec: Resolutions (used as ratios to the input's), interactions and the form of the maps.
        wish: The head's: strides of the maps, or tokens.
    """

    def __init__(
        self,
        branches: Sequence[Branch | ConvNeXtBranch],
        spec: PIIPSpec,
        wish: Wish = Maps(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        assert len(branches) == len(spec.branches), f"{len(branches)} branches for a spec of {len(spec.branches)}"
        count = spec.interaction.count if len(branches) > 1 else 0
        self.branches: Sequence[Branch | ConvNeXtBranch] = nn.ModuleList(branches)  # type: ignore[assignment]
        self.ratios = [branch.resolution / spec.resolution for branch in spec.branches]
        self.colours = [_colours(spec.input, branch) for branch in spec.branches]
        self.schedules = [branch.shares(count) if count else [(0, branch.depth)] for branch in branches]

        # channels of every branch after each share of its blocks; a ConvNeXt's grow
        dims = [[branch.dims[stop - 1] for _, stop in s] for branch, s in zip(branches, self.schedules, strict=True)]
        steps = list(zip(*dims, strict=True))
        self.interactions: Sequence[Sequence[InteractionUnit]] = nn.ModuleList(  # type: ignore[assignment]
            nn.ModuleList(InteractionUnit(high, low, spec.interaction) for high, low in pairwise(step))
            for step in steps[:count]
        )
        self.streams, self.contiguous = False, False  # see SpeedSpec
        self.out_channels: list[int] = []
        self.merge_after = spec.merge_after
        self.merge, self.pyramid = None, None
        self.strides = () if isinstance(wish, Tokens) else strides_of(wish, STRIDES, what="a PIIP")
        if self.strides:
            self._build_maps(spec, steps)

    def _build_maps(self, spec: PIIPSpec, steps: Sequence[Sequence[int]]) -> None:
        """Merges and pyramid. One branch has nothing to merge: the plain ViT baseline with a simple feature pyramid."""
        several, simple = len(self.branches) > 1, spec.fpn == "simple"
        places = [len(steps) - 1] * 4 if simple else [*spec.merge_after, len(steps) - 1]
        if not simple:
            self.merges = nn.ModuleDict(
                {str(step): Merge(steps[step], steps[step][-1], deep=False) for step in spec.merge_after}
            )
        self.merge = Merge(steps[-1], steps[-1][-1], deep=simple) if several else None
        first, shares = self.branches[0], self.schedules[0]
        widths = [steps[step][-1] for step in places]
        strides = [first.strides[shares[step][1] - 1] for step in places]
        self.pyramid = SimplePyramid(
            widths, strides, out_strides=self.strides, unused=spec.unused_level, group_norm=several
        )
        self.out_channels = [widths[STRIDES.index(stride)] for stride in self.strides]

    def forward(self, images: Tensor) -> list[Tensor] | MergePoint:
        """(B, 3, H, W) -> maps (B, C, H/s, W/s), s in `strides`; for a head that asks for them, tokens and grids."""
        if not self.strides:
            return self.branch_tokens(images)
        points = self.merge_points(images)
        return self.fuse([points[step] for step in [*self.merge_after, -1]])

    def fuse(self, points: Sequence[MergePoint]) -> list[Tensor]:
        """Tokens of every branch at each of the merges -> the maps."""
        assert self.pyramid is not None, "built for a head that reads tokens"
        merges = [*(self.merges[str(step)] for step in self.merge_after), self.merge]
        merged = []
        for merge, (tokens, grids) in zip(merges, points, strict=True):
            maps = [
                t[:, branch.prefix :].transpose(1, 2).unflatten(2, grid)
                for branch, t, grid in zip(self.branches, tokens, grids, strict=True)
            ]
            merged.append(merge(maps) if merge else maps[0])
        maps = self.pyramid(merged if len(merged) > 1 else merged * 4)
        return [m.contiguous() for m in maps] if self.contiguous else maps

    def image_pyramid(self, images: Tensor) -> list[Tensor]:
        """The input at every branch's resolution.

        By scale factor, as published: where side * ratio is no integer, this samples other places than resizing to the same size.
        A branch of another pretraining sees the same colours, in its own mean and std.
        """
        pyramid = []
        for ratio, colours in zip(self.ratios, self.colours, strict=True):
            image = images
            if colours is not None:
                scale, shift = (images.new_tensor(c)[:, None, None] for c in colours)
                image = images * scale + shift
            if ratio != 1:
                image = F.interpolate(image, scale_factor=ratio, mode="bilinear", align_corners=False)
            pyramid.append(image)
        return pyramid

    def branch_tokens(self, images: Tensor) -> MergePoint:
        """Tokens (B, prefix + H_i*W_i, C_i) of every branch after all blocks and interactions, and their grids."""
        return self.merge_points(images)[-1]

    def merge_points(self, images: Tensor) -> dict[int, MergePoint]:
        """Tokens and grids after the interactions in spec.merge_after, and under -1 after all."""
        pyramid = self.image_pyramid(images)
        grids = [branch.grid(image) for branch, image in zip(self.branches, pyramid, strict=True)]
        tokens = [branch.embed(image) for branch, image in zip(self.branches, pyramid, strict=True)]
        points: dict[int, MergePoint] = {}
        for step in range(len(self.schedules[0])):
            shares = [
                partial(branch.run, tokens[i], grids[i], *self.schedules[i][step])
                for i, branch in enumerate(self.branches)
            ]
            ran = side_by_side(shares, tokens) if self.streams else [share() for share in shares]
            tokens, grids = [t for t, _ in ran], [grid for _, grid in ran]
            if self.interactions:
                self._interact(self.interactions[step], tokens, grids)
            if step in self.merge_after:
                points[step] = list(tokens), list(grids)
        points[-1] = tokens, grids
        return points

    def _interact(self, units: Sequence[InteractionUnit], tokens: list[Tensor], grids: Sequence[Grid]) -> None:
        """Exchanges between all neighbours, in place; class tokens sit it out."""
        prefixes = [branch.prefix for branch in self.branches]
        aside = [t[:, :prefix] for t, prefix in zip(tokens, prefixes, strict=True)]
        patches = [t[:, prefix:] if prefix else t for t, prefix in zip(tokens, prefixes, strict=True)]
        # highest resolution first: the next pair sees tokens the one before has updated
        for i, unit in enumerate(units):
            patches[i], patches[i + 1] = unit(patches[i], patches[i + 1], grids[i], grids[i + 1])
        for i, prefix in enumerate(prefixes):
            tokens[i] = torch.cat([aside[i], patches[i]], dim=1) if prefix else patches[i]

    def layer_ids(self, *, exact: bool = False) -> dict[str, float]:
        """Parameter name -> distance from the end, for lr * layer_decay ** distance.

        The last block of a branch is at 1, its embedding at depth + 1, everything outside branches at 0. A shallower branch takes
        strides through the depth of the deepest ViT: with S/B/L of 12/12/24 blocks, S and B go in steps of 2.

        Args:
            exact: False as released: strides of 1.5 (32 blocks beside 48) are rounded down, and ConvNeXts do not decay. True
                takes fractions as they are and ConvNeXts like ViTs.
        """
        ids: dict[int, float] = {}
        counted = [b for b in self.branches if exact or isinstance(b, Branch)]
        deepest = max((branch.depth for branch in counted), default=0)
        for branch in counted:
            for parameter in branch.parameters():
                ids[id(parameter)] = deepest + 1
            for index, block in enumerate(branch.blocks):
                layer = (index + 1) * deepest / branch.depth
                for parameter in block.parameters():
                    ids[id(parameter)] = deepest + 1 - (layer if exact else int(layer))
        return {name: ids.get(id(p), 0) for name, p in self.named_parameters()}

    def part_of(self, name: str) -> str:
        """`branches.0`, `interactions` or `merge` (with the pyramid of maps)."""
        kind, *rest = name.split(".")
        return f"branches.{rest[0]}" if kind == "branches" else "interactions" if kind == "interactions" else "merge"


def _colours(given: Input, branch: BranchSpec) -> tuple[list[float], list[float]] | None:
    """Factor and summand a channel that turn pixels normalised for the input's branch into this branch's; None where they are alike."""
    if (given.mean, given.std) == (branch.mean, branch.std):
        return None
    scale = [own / theirs for own, theirs in zip(given.std, branch.std, strict=True)]
    shift = [(own - theirs) / std for own, theirs, std in zip(given.mean, branch.mean, branch.std, strict=True)]
    return scale, shift
