"""What a mask head learns: the truth inside each proposal."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from piip.contracts import Size
from piip.ops.mask_runs import arrays_of, have_pixels


def mask_loss(
    logits: Tensor,
    boxes: Sequence[Tensor],
    targets: Sequence[Mapping[str, Tensor]],
    objects: Sequence[Tensor],
    sizes: Sequence[Size],
    *,
    aligned: bool = True,
    soft: bool = False,
) -> Tensor:
    """Binary cross entropy of every positive proposal's own class against its object's mask inside the proposal.

    The truth is cropped by an aligned RoIAlign and cut at one half, as in mmdet. torchvision's own loss crops unaligned, half a
    pixel off: a perfect prediction of an object under 32 px then pastes back at an IoU of 0.87 instead of 0.998.

    Args:
        logits: (K, classes + 1, 28, 28) for the K positive proposals of all images.
        boxes: Per image (k, 4), the positive proposals.
        targets: Per image mask_runs (R, 4) and labels (n,). Of a mask without a pixel nothing is learned: it says nothing.
        objects: Per image (k,), the object each proposal was matched to.
        sizes: Height and width of every image's content.
        aligned: Crop between pixels' centres.
        soft: Learn the values between 0 and 1 that cropping gives, as torchvision.
    """
    if len(logits) == 0:
        return logits.sum() * 0  # the mask head stays part of the graph
    cells = (logits.shape[-2], logits.shape[-1])
    classes, truth, learned = [], [], []
    for box, target, index, size in zip(boxes, targets, objects, sizes, strict=True):
        if len(box):
            cut = _inside(target["mask_runs"], index, box, size, cells, aligned=aligned)
            truth.append(cut if soft else cut >= 0.5)
            classes.append(target["labels"][index])
            learned.append(have_pixels(target["mask_runs"], len(target["labels"]))[index])
    own_class = logits[torch.arange(len(logits), device=logits.device), torch.cat(classes)]
    known = torch.cat(learned)
    if not known.any():
        return logits.sum() * 0
    return F.binary_cross_entropy_with_logits(own_class[known], torch.cat(truth)[known].to(logits))


def _inside(runs: Tensor, index: Tensor, box: Tensor, size: Size, cells: Size, *, aligned: bool) -> Tensor:
    """(k, *cells) from 0 to 1: of each box (k, 4), the mask of its object (k,) inside it."""
    found = box.new_empty(len(box), *cells)
    for some, masks in arrays_of(runs, index.unique(), size):
        mine = torch.isin(index, some).nonzero()[:, 0]
        place = torch.searchsorted(some, index[mine])
        rois = torch.cat([place[:, None].to(box), box[mine]], dim=1)
        found[mine] = roi_align(masks[:, None].to(box), rois, cells, aligned=aligned)[:, 0]
    return found
