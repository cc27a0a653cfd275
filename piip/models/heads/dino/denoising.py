"""Contrastive denoising: training also shows noised objects, to be put right where the noise is small and rejected where it is not."""

from dataclasses import dataclass

import torch
from torch import Tensor

from piip.models.heads.dino.objects import Objects
from piip.models.heads.dino.positions import logit
from piip.spec import DINOSpec

# B batch, G groups, M objects of the batch's fullest image, D = G * 2 * M noised objects


@dataclass(frozen=True)
class Noised:
    """Noised objects as queries: group after group, in each the good ones of an image and then the bad ones."""

    groups: int
    labels: Tensor
    """(B, D) int64, from 0: what they claim to be."""
    boxes: Tensor
    """(B, D, 4) where they claim to be; as every query's, no side is 0."""
    present: Tensor
    """(B, D) False where nothing is."""
    wanted: Tensor
    """(B, D) which of the image's M objects each is to become; -1: none."""

    def visible(self, queries: int) -> Tensor:
        """(Q, Q) True where a query may look at another one, for `queries` in all, the noised ones first.

        Groups do not see each other, and the learned queries see none of them: all would learn the answers.
        """
        noised = self.labels.shape[1]
        group = torch.full((queries,), -1, device=self.labels.device)
        group[:noised] = torch.arange(noised, device=group.device) // (noised // self.groups)
        return (group < 0) | (group[:, None] == group)


def noise(objects: Objects, spec: DINOSpec) -> Noised | None:
    """Every object in as many groups as `denoising_queries` allow, each time with another noise; None without any object.

    A good one's corners are moved by up to half its sides, a bad one's by half of them to all, times `box_noise`; both are labelled
    anew with half the probability `label_noise`.

    Args:
        objects: Of a batch.
        spec: How many, and how much noise.
    """
    images, most = objects.labels.shape
    if most == 0:
        return None
    groups = max(1, spec.denoising_queries // most)
    shape = (images, groups, 2, most)
    labels, boxes, present = (
        every[:, None, None].expand(*shape, *every.shape[2:])
        for every in (objects.labels, objects.boxes, objects.present)
    )
    anew = torch.rand(shape, device=labels.device) < 0.5 * spec.label_noise
    labels = torch.where(anew, torch.randint_like(labels, spec.num_classes), labels)
    moved = logit(_moved(boxes, spec.box_noise)).sigmoid().masked_fill(~present[..., None], 0.5)
    wanted = torch.arange(most, device=labels.device).expand(shape).masked_fill(~present, -1).clone()
    wanted[:, :, 1] = -1
    return Noised(groups, labels.flatten(1), moved.flatten(1, 3), present.flatten(1), wanted.flatten(1))


def _moved(boxes: Tensor, amount: float) -> Tensor:
    """(B, G, 2, M, 4) with corners moved; those at 0 along the third side by less than half a side, those at 1 by more."""
    half = boxes[..., 2:] / 2
    corners = torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)
    part = torch.rand_like(corners)
    part[:, :, 1] += 1
    sign = torch.randint_like(corners, 2) * 2 - 1
    corners = (corners + sign * part * amount * half.repeat(*[1] * (half.ndim - 1), 2)).clamp(0, 1)
    low, high = corners.split(2, -1)
    return torch.cat([(low + high) / 2, high - low], -1)
