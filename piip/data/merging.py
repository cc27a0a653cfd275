"""Detections of several views of an image become those of the image: overlapping ones of a class are suppressed or joined."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from piip.data.transforms.views import View
from piip.spec.views import ViewsSpec

SPREAD = 0.5
"""Of soft-NMS: a score is multiplied by exp(-IoU^2 / SPREAD) (Bodla et al. 2017)."""
LEAST_SCORE = 1e-3
"""What soft-NMS makes less sure than this is left out."""
FIELDS = {"boxes", "labels", "scores", "masks", "keypoints"}

# n detections of all views


def merged(seen: Sequence[tuple[View, Mapping[str, Tensor]]], spec: ViewsSpec) -> dict[str, Tensor]:
    """One prediction in the file's pixels, the surest detections first; of a single view: its own, as they are.

    Args:
        seen: Views and the predictions of them: boxes (k, 4) xyxy in the view's pixels, labels (k,), scores (k,), from a mask head
            masks (k, 1, h, w) inside their boxes, from a keypoint head keypoints (k, P, 3), which go with the surest.
        spec: How they are merged.

    Raises:
        ValueError: There is more in a prediction than can be merged, or keypoints were seen in a mirror.
    """
    if strange := {key for _, found in seen for key in found} - FIELDS:
        raise ValueError(
            f"several views of an image are merged by boxes, labels, scores, masks and keypoints, not by {sorted(strange)}"
        )
    found = [_in_file(view, prediction) for view, prediction in seen]
    together = {key: torch.cat([one[key] for one in found]) for key in found[0]}
    if len(found) == 1:
        return together
    views = torch.cat([torch.full((len(one["scores"]),), number) for number, one in enumerate(found)])
    match spec.merging:
        case "nms":
            kept = batched_nms(together["boxes"].float(), together["scores"], together["labels"], spec.threshold)
            return {key: value[kept] for key, value in together.items()}
        case "soft_nms":
            return soft_nms(together)
        case "nmm":
            return joined(together, views.to(together["labels"].device), spec.threshold)


def _in_file(view: View, prediction: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if view.mirrored and "keypoints" in prediction:
        raise ValueError(
            "a mirror changes left and right keypoints, and a network's classes do not say which are: leave flip out of views"
        )
    # in 64 bits, as `results_of` does it with a single view
    found = dict(prediction) | {"boxes": view.back(prediction["boxes"].double())}
    if "keypoints" in found:
        points = found["keypoints"].double()
        found["keypoints"] = torch.cat([view.points_back(points[..., :2]), points[..., 2:]], dim=-1)
    return found | {"masks": found["masks"].flip(-1)} if view.mirrored and "masks" in found else found


def soft_nms(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gaussian soft-NMS: what overlaps a surer detection of its class becomes less sure."""
    scores, left = found["scores"].clone(), torch.ones_like(found["labels"], dtype=torch.bool)
    order = list[Tensor]()
    while left.any():
        best = torch.where(left, scores, -1.0).argmax()
        if scores[best] < LEAST_SCORE:
            break
        order.append(best)
        left[best] = False
        rivals = left & (found["labels"] == found["labels"][best])
        overlap = box_iou(found["boxes"][best][None], found["boxes"][rivals])[0]
        scores[rivals] *= torch.exp(-(overlap**2) / SPREAD).to(scores.dtype)
    kept = torch.stack(order) if order else found["labels"][:0].long()
    return {key: value[kept] for key, value in {**found, "scores": scores}.items()}


def joined(found: Mapping[str, Tensor], views: Tensor, threshold: float) -> dict[str, Tensor]:
    """Greedy non-maximum merging: the surest detection takes in those of other views and its class that overlap it.

    Detections of one view have been told apart by the detector already. The box becomes the one around all, a mask their union.

    Args:
        found: All detections.
        views: (n,) which view each is of.
        threshold: Intersection over the smaller of two boxes, from which on they are of one object.
    """
    boxes, left = found["boxes"].clone(), torch.ones_like(views, dtype=torch.bool)
    masks, kept = found.get("masks"), list[int]()
    masks = None if masks is None else masks.clone()
    for best in found["scores"].argsort(descending=True, stable=True).tolist():
        if not left[best]:
            continue
        kept.append(best)
        left[best] = False
        rivals = left & (found["labels"] == found["labels"][best]) & (views != views[best])
        those = rivals.nonzero()[:, 0]
        those = those[_over_smaller(found["boxes"][best], found["boxes"][those]) >= threshold]
        left[those] = False
        group = torch.cat([those.new_tensor([best]), those])
        members = found["boxes"][group]
        boxes[best] = torch.cat([members[:, :2].amin(dim=0), members[:, 2:].amax(dim=0)])
        if masks is not None and len(those):
            parts = [_drawn_in(found["masks"][i, 0], found["boxes"][i], boxes[best]) for i in group.tolist()]
            masks[best, 0] = torch.stack(parts).amax(dim=0)
    changed = {"boxes": boxes} if masks is None else {"boxes": boxes, "masks": masks}
    return {key: value[kept] for key, value in {**found, **changed}.items()}


def _over_smaller(box: Tensor, others: Tensor) -> Tensor:
    """(k,) intersection of a box with others (k, 4), over the smaller of the two areas."""
    sides = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0)
    areas = (others[:, 2:] - others[:, :2]).prod(dim=1)
    return sides.prod(dim=1) / torch.minimum(areas, (box[2:] - box[:2]).prod()).clamp(min=1e-9)


def _drawn_in(mask: Tensor, box: Tensor, target: Tensor) -> Tensor:
    """A mask (h, w) of probabilities inside `box`, as it is inside `target`: bilinear at the cells' centres, zero outside its box."""
    height, width = mask.shape
    vertical = _weights(box[1], box[3], target[1], target[3], height)
    horizontal = _weights(box[0], box[2], target[0], target[2], width)
    return (vertical @ mask.to(vertical.dtype) @ horizontal.T).to(mask.dtype)


def _weights(start: Tensor, stop: Tensor, first: Tensor, last: Tensor, cells: int) -> Tensor:
    """(cells of the target, cells of the box); at its edge a box has the value of its outermost cell."""
    numbers = torch.arange(cells, device=start.device, dtype=start.dtype)
    centres = first + (numbers + 0.5) * (last - first) / cells
    position = (centres - start) / (stop - start).clamp(min=1e-9) * cells
    inside = ((position >= 0) & (position <= cells)).to(start.dtype)
    weights = (1 - ((position - 0.5).clamp(0, cells - 1)[:, None] - numbers).abs()).clamp(min=0)
    return weights * inside[:, None]
