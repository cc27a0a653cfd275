"""Which query is which object, and how far it is from it: focal loss, L1 and GIoU, for many layers at once."""

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import generalized_box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from piip.models.heads.dino.objects import Objects, corners

# T layers, B batch, Q queries, M objects, K classes

ALPHA, GAMMA = 0.25, 2.0
"""Of the focal loss, and of the matching's cost."""
WEIGHTS = {"class": 1.0, "box": 5.0, "giou": 2.0}
"""Of the losses."""
COSTS = {"class": 2.0, "box": 5.0, "giou": 2.0}
"""Of the matching."""


def losses_of(logits: Tensor, boxes: Tensor, wanted: Tensor, objects: Objects, positives: Tensor) -> dict[str, Tensor]:
    """`class`, `box` and `giou`, weighted, (T,) each; 0 for boxes where there is no object.

    Args:
        logits: (T, B, Q, K).
        boxes: (T, B, Q, 4) centre x, y, width, height in 0..1 of the content.
        wanted: (T, B, Q) which of its image's M objects a query is to be; -1: none.
        objects: Of the images.
        positives: 0-d, what sums are divided by.
    """
    layer, image, query = torch.where(wanted >= 0)
    found = image, wanted[layer, image, query]
    truth = torch.zeros_like(logits)
    truth[layer, image, query, objects.labels[found]] = 1
    focal = sigmoid_focal_loss(logits, truth, alpha=ALPHA, gamma=GAMMA).sum((1, 2, 3))
    ours, theirs = boxes[layer, image, query], objects.boxes[found]
    apart = F.l1_loss(ours, theirs, reduction="none").sum(-1)
    sizes = objects.sizes[image]
    overlap = generalized_box_iou_loss(corners(ours, sizes), corners(theirs, sizes))
    per_layer = {
        "class": focal,
        "box": apart.new_zeros(len(boxes)).index_add(0, layer, apart),
        "giou": overlap.new_zeros(len(boxes)).index_add(0, layer, overlap),
    }
    return {name: WEIGHTS[name] * value / positives for name, value in per_layer.items()}


def matched(logits: Tensor, boxes: Tensor, objects: Objects) -> Tensor:
    """The cheapest way to give every object a query of its own, layer by layer (the Hungarian method).

    Args:
        logits: (T, B, Q, K).
        boxes: (T, B, Q, 4) as in `losses_of`.
        objects: Of the images; more than queries: the cheapest are taken.

    Returns:
        (T, B, Q) which object a query is, -1 where it is none.
    """
    layers, images, queries = logits.shape[:3]
    wanted = torch.full((layers, images, queries), -1)
    if objects.labels.shape[1]:
        # once from the device for all; numbers that are not finite are the loop's to tell of, by the loss
        costs_TBQM = _costs(logits, boxes, objects).nan_to_num(1e6, 1e6, -1e6).cpu().numpy()
        for image, count in enumerate(objects.present.sum(1).tolist()):
            for layer in range(layers):
                query, match = linear_sum_assignment(costs_TBQM[layer, image, :, :count])
                wanted[layer, image, query] = torch.from_numpy(match)
    return wanted.to(logits.device)


@torch.no_grad()
def _costs(logits: Tensor, boxes: Tensor, objects: Objects) -> Tensor:
    """(T, B, Q, M) what it costs to call a query an object."""
    score = logits.sigmoid()
    as_none = -(1 - score + 1e-12).log() * (1 - ALPHA) * score**GAMMA
    as_class = -(score + 1e-12).log() * ALPHA * (1 - score) ** GAMMA
    labels_TBQM = objects.labels[None, :, None].expand(*logits.shape[:3], -1)
    apart = torch.cdist(boxes, objects.boxes[None].expand(len(boxes), -1, -1, -1), p=1)
    ours, theirs = (corners(each, objects.sizes[:, None]) for each in (boxes, objects.boxes))
    of_image = [
        generalized_box_iou(one.flatten(0, 1), other) for one, other in zip(ours.unbind(1), theirs, strict=True)
    ]
    overlap = torch.stack([iou.unflatten(0, (len(boxes), -1)) for iou in of_image], 1)
    found = (as_class - as_none).gather(-1, labels_TBQM)
    return COSTS["class"] * found + COSTS["box"] * apart - COSTS["giou"] * overlap
