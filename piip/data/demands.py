"""What objects ask of a network: how large they are as it sees them, in pixels and in patches of each of its branches."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from piip.data.formats.coco_counts import fate
from piip.data.transforms.detection import resized_size
from piip.spec import DetectionSpec, ExperimentSpec, PIIPSpec

PARTS = (10, 50, 90)
"""Percentiles that are told: few are smaller than the first, half than the second, most than the third."""


class Demand(NamedTuple):
    """Objects as one of a network's branches sees them."""

    branch: str
    resolution: int
    patch: int
    """Side of what becomes one token, in pixels of the branch's image."""
    pixels: tuple[float, ...]
    """Square roots of the boxes' areas at the percentiles of `PARTS`, in pixels of the branch's image."""
    under_a_patch: float
    """Share of objects whose box has less area than a patch."""

    @property
    def words(self) -> str:
        """For people."""
        pixels = ", ".join(f"{side:.3g}" for side in self.pixels)
        patches = ", ".join(f"{side / self.patch:.2g}" for side in self.pixels)
        return (
            f"{self.branch} at {self.resolution}: objects of {pixels} pixels (smallest tenth, median, largest tenth), "
            f"{patches} patches of {self.patch}; {self.under_a_patch:.0%} under one"
        )


def demands(document: Mapping[str, Any], row: ExperimentSpec) -> list[Demand]:
    """One of each branch, the highest resolution first; a network without branches is one, its patch the finest map's stride.

    Args:
        document: COCO-shaped, free of faults.
        row: Says resolutions, and how images are resized.

    Raises:
        ValueError: The row is no detector.
    """
    if not isinstance(row.data, DetectionSpec):
        raise ValueError(f"{row.name} is for {row.data.task}; object sizes are told of a detector's row")
    sides = _sides(document, row.data, row.model.input.resolution)
    backbone = row.model.backbone
    branches = (
        [(branch.arch, branch.resolution, branch.patch_size or _own_patch(branch.arch)) for branch in backbone.branches]
        if isinstance(backbone, PIIPSpec)
        else [(backbone.row_name, row.model.input.resolution, 4)]
    )
    largest = branches[0][1]
    return [_demand(name, side, patch, sides * side / largest) for name, side, patch in branches]


def _sides(document: Mapping[str, Any], data: DetectionSpec, resolution: int) -> Any:
    """(n,) square roots of the areas of learned objects' boxes, in pixels of the network's input in evaluation."""
    limits = data.limits(resolution, training=False)
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    factors = {key: resized_size(*size, limits)[0] / size[0] for key, size in sizes.items()}
    return np.array(
        [
            np.sqrt(entry["bbox"][2] * entry["bbox"][3]) * factors[entry["image_id"]]
            for entry in document["annotations"]
            if fate(entry, *sizes[entry["image_id"]]) == "learned"
        ]
    )


def _demand(name: str, resolution: int, patch: int, sides: Any) -> Demand:
    return Demand(name, resolution, patch, tuple(np.percentile(sides, PARTS).tolist()), float((sides < patch).mean()))


def _own_patch(arch: str) -> int:
    """As timm's names say it (vit_base_patch16_384); 16 of the pico branches, and 4 of ConvNeXt's first stage."""
    if "patch" in arch:
        return int(arch.split("patch")[1].split("_")[0].split(".")[0])
    return 4 if arch.startswith("convnext") else PICO_PATCH


PICO_PATCH = 8
