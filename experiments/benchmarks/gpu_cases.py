"""What gpu_kernels.py times: the deformable attention of one interaction of PIIP-TSB and -SBL at 1568x1120, and what is asked of it."""

import functools
from dataclasses import dataclass
from math import isnan

import torch
from torch import Tensor

# B batch, Q queries, V pixels of the value map, N heads, P points, D channels per head
Size = tuple[int, int]

BATCH, HEADS, POINTS = 2, 16, 4
SCATTER = 3.0  # pixels, standard deviation of the offsets
GRIDS = {
    "b1": (30, 42),
    "b2": (50, 70),
    "b3": (70, 98),
}  # 1568x1120, 1120x800 and 672x480 images, padded to the windows' multiple
WIDTHS = {
    "TSB": {"b1": 24, "b2": 12, "b3": 6},
    "SBL": {"b1": 32, "b2": 24, "b3": 12},
}  # a head's: the query's width / 2 / 16
# Of the value, of the query. The first two are one unit of the interaction, and so are the last two: neither of a unit's directions
# waits for the other. The narrower first, as InteractionUnit has them.
DIRECTIONS = (("b2", "b3"), ("b3", "b2"), ("b1", "b2"), ("b2", "b1"))
STORAGES = {  # of the value and the output, of offsets and logits
    "bf16": (torch.bfloat16, torch.bfloat16),
    "mixed": (torch.bfloat16, torch.float32),
    "fp16": (torch.float16, torch.float16),
    "fp32": (torch.float32, torch.float32),
}
BARS = {  # of issue 4, for a whole interaction: microseconds at most; times as fast as the faster of classic and plain
    "TSB interaction": {"forward us": 45.0, "backward us": 150.0, "forward x": 4.0, "backward x": 8.0},
    "SBL interaction": {"forward x": 4.0},
}


@dataclass(frozen=True)
class Direction:
    """One call: the tokens of one branch ask the map of another."""

    value_hw: Size
    query_hw: Size
    dim: int

    def tensors(self, storage: str, device: str) -> tuple[list[Tensor], Tensor]:
        """Value, offsets and logits; and a gradient of the output. The same numbers every time."""
        random = torch.Generator().manual_seed(0)
        queries = self.query_hw[0] * self.query_hw[1]
        value = torch.randn(BATCH, self.value_hw[0] * self.value_hw[1], HEADS, self.dim, generator=random)
        offsets = torch.randn(BATCH, queries, HEADS, POINTS, 2, generator=random) * SCATTER
        logits = torch.randn(BATCH, queries, HEADS, POINTS, generator=random)
        grad_out = torch.randn(BATCH, queries, HEADS * self.dim, generator=random)
        of_value, of_location = STORAGES[storage]
        centres, size = centres_and_size(self.value_hw, self.query_hw, "cpu")
        # Where a pixel begins the gradient jumps: there float32 and float64 may both be right and differ.
        offsets = offsets.to(of_location)
        places = centres.double() * size - 0.5 + offsets.double()
        offsets += 0.25 * ((places - places.round()).abs() < 1e-3)
        given = [value.to(of_value), offsets, logits.to(of_location)]
        return [t.to(device) for t in given], grad_out.to(device, of_value)

    def megabytes(self, storage: str) -> tuple[float, float]:
        """What forward and backward have to read and write at least, each number once."""
        value, location = (dtype.itemsize for dtype in STORAGES[storage])
        queries = BATCH * self.query_hw[0] * self.query_hw[1] * HEADS
        of_map = BATCH * self.value_hw[0] * self.value_hw[1] * HEADS * self.dim * value
        of_points, of_out = queries * 3 * POINTS * location, queries * self.dim * value
        return (of_map + of_points + of_out) / 1e6, (2 * of_map + 2 * of_points + of_out) / 1e6


def cases() -> dict[str, list[Direction]]:
    """The four directions of an interaction one after the other, and each alone."""
    found: dict[str, list[Direction]] = {}
    for name, widths in WIDTHS.items():
        directions = {
            f"{name} {value}->{query} D{widths[query]}": Direction(GRIDS[value], GRIDS[query], widths[query])
            for value, query in DIRECTIONS
        }
        found |= {f"{name} interaction": list(directions.values())}
        found |= {case: [direction] for case, direction in directions.items()}
    return found


def megabytes(case: str, storage: str) -> tuple[float, float]:
    """Megabytes that all directions of a case move, forward and backward."""
    forward, backward = zip(*(d.megabytes(storage) for d in cases()[case]), strict=True)
    return sum(forward), sum(backward)


def judge(figures: dict[str, dict[str, float]]) -> dict[str, str]:
    """What is said about each bar: case -> figures named as in BARS -> `38.2, wanted at most 45: met`. Cases not timed are left out."""
    said = {}
    for case, bars in BARS.items():
        for name, wanted in bars.items() if case in figures else ():
            actual, at_most = figures[case][name], name.endswith("us")
            if isnan(actual):  # classic or plain was not timed
                continue
            met = actual <= wanted if at_most else actual >= wanted
            words = (
                f"{actual:.3g}, wanted {'at most' if at_most else 'at least'} {wanted:g}: {'met' if met else 'MISSED'}"
            )
            said[f"bar, {case}, {name}"] = words
    return said


@functools.cache
def centres_and_size(value_hw: Size, query_hw: Size, device: str) -> tuple[Tensor, Tensor]:
    """Queries' centres (1, Q, 1, 1, 2) in [0, 1], and the map's columns and rows. Public code makes them once per forward at best."""
    y, x = torch.meshgrid(*(torch.arange(n) + 0.5 for n in query_hw), indexing="ij")
    centres = torch.stack((x.flatten() / query_hw[1], y.flatten() / query_hw[0]), -1)[None, :, None, None]
    return centres.to(device), torch.tensor([value_hw[1], value_hw[0]], dtype=torch.float32, device=device)
