"""Tensors of a pretraining in other sizes, as the official code resizes them when it loads."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.interpolate import RectBivariateSpline
from torch import Tensor

# N positions, C channels


def resize_patch_kernel(kernel: Tensor, side: int) -> Tensor:
    """(C, 3, p, p) -> (C, 3, side, side), plain bicubic.

    The gain is not corrected, as published: 14 to 16 pixels makes the answer about (16/14)^2 larger.
    """
    return F.interpolate(kernel.float(), size=(side, side), mode="bicubic", align_corners=False)


def resize_positions(positions_1NC: Tensor, count: int) -> Tensor | None:
    """(1, N, C) -> (1, count, C): the square grid bicubic, without antialiasing; None where either number is no grid.

    A class token's row, in front, is left out where `count` has no place for it, and zero where the file has none.
    """
    source, target = _grid(positions_1NC.shape[1]), _grid(count)
    if source is None or target is None:
        return None
    (side, extra), (new_side, new_extra) = source, target
    token, grid = positions_1NC[:, :extra], positions_1NC[:, extra:]
    if side != new_side:
        map_1CHW = grid.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
        map_1CHW = F.interpolate(map_1CHW, size=(new_side, new_side), mode="bicubic", align_corners=False)
        grid = map_1CHW.flatten(2).transpose(1, 2)
    if new_extra and not extra:
        token = grid.new_zeros(1, 1, grid.shape[2])
    return torch.cat([token[:, :new_extra].to(grid), grid], dim=1)


def _grid(count: int) -> tuple[int, int] | None:
    """Side of the square and number of class tokens (0 or 1)."""
    for extra in (0, 1):
        side = math.isqrt(max(count - extra, 0))
        if side and side * side == count - extra:
            return side, extra
    return None


def resize_relative_positions(table: Tensor, count: int) -> Tensor | None:
    """BEiT's bias table ((2w-1)^2 [+ 3], heads) -> (count, heads) for another window; None where either is no square.

    The three rows of the class token are left out. Distances of the old window are spread over the new one in a geometric
    progression, so that neighbours stay close to one apart, and a cubic spline goes through them.
    """
    side, new_side = math.isqrt(table.shape[0]), math.isqrt(count)
    if table.shape[0] - side * side not in (0, 3) or new_side * new_side != count or not side % 2 or not new_side % 2:
        return None
    rows = table[: side * side]
    if side == new_side or table.is_meta:
        return rows if side == new_side else rows.new_empty(count, table.shape[1])
    distance = _spread(side // 2, new_side // 2)
    places = np.concatenate([-distance[::-1], [0.0], distance])
    wanted = np.arange(new_side) - new_side // 2
    columns = []
    for head in rows.float().numpy().T:
        spline = RectBivariateSpline(places, places, head.reshape(side, side))
        columns.append(spline(wanted, wanted).reshape(-1))
    return torch.from_numpy(np.stack(columns, axis=1)).to(table.dtype)


def _spread(steps: int, reach: int) -> np.ndarray:
    """Distances 1, 1 + q, 1 + q + q^2, ... of `steps` steps, with q in 1.01..1.5 so that the last one is `reach`."""
    low, high = 1.01, 1.5
    ratio = low
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**steps) / (1 - ratio) > reach:
            high = ratio
        else:
            low = ratio
    return np.cumsum(ratio ** np.arange(steps))
