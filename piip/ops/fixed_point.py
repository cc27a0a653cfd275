"""Sums whose bits do not depend on the order: float32 terms are rounded to multiples of a power of two and added as int64."""

import math

import torch
from torch import Tensor


def fixed_point_scale(terms: Tensor, count: int) -> Tensor:
    """The power of two to multiply terms by before they are rounded, a float32 scalar on their device; nothing waits for it.

    `count` terms of the largest size, weighted by at most 1, add up to less than 2^62. So the unit is at most 2^-60 * `count` of the
    largest term, far finer than float32's own 2^-24. nan where a term is nan or inf: integers have neither.
    """
    largest = terms.detach().abs().amax().float()
    exponent = torch.frexp(largest).exponent  # largest < 2^exponent
    bits = 62 - math.ceil(math.log2(count)) if count > 1 else 62
    scale = torch.exp2((bits - exponent).clamp(max=126).float())
    return torch.where(largest.isfinite(), scale, torch.nan)


def from_fixed_point(sums: Tensor, scale: Tensor) -> Tensor:
    """The float32 sums that the int64 ones stand for."""
    return sums.float() * (1 / scale)
