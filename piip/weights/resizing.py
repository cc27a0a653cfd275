"""What is resized when pretrained weights meet another patch, grid or window: kernels, positions, relative biases."""

import math

import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

Grid = tuple[int, int]
"""Rows and columns of a token map."""


def resize_patches(vit: VisionTransformer | Beit, size: int) -> None:
    """Gives `vit` patches of `size` x `size` pixels; its position grid then covers the same pretraining image.

    Bicubic on kernel and positions, as published for MAE-H, DINOv2 and InternViT-6B (14 to 16): no correction for the larger
    kernel, whose response grows by about (16/14)**2.

    Raises:
        ValueError: The patch embedding is no single convolution.
    """
    old = vit.patch_embed.proj
    if vit.patch_embed.patch_size[0] == size:
        return
    if not isinstance(old, nn.Conv2d):
        raise ValueError(
            f"patch_size {size}: only networks with one patch convolution can change it, this has {type(old).__name__}"
        )
    kernel = _bicubic(old.weight.detach().float(), (size, size))
    # the constructor draws random weights: on meta they would be no weights of ours to draw
    proj = nn.Conv2d(old.in_channels, old.out_channels, size, stride=size, bias=old.bias is not None, device="meta")
    proj.weight = nn.Parameter(kernel.to(old.weight.dtype))
    proj.bias = old.bias
    height, _ = vit.patch_embed.img_size  # type: ignore[misc]
    vit.patch_embed.proj, vit.patch_embed.patch_size = proj, (size, size)
    resize_positions(vit, height // size)


def resize_positions(vit: VisionTransformer | Beit, side: int) -> None:
    """Stores the positions of `vit` on a grid of side x side patches; the class token's row, where there is one, stays."""
    position = vit.pos_embed
    if position is not None:
        rows = vit.patch_embed.num_patches
        prefix, grid = position.detach()[:, :-rows], position.detach()[:, -rows:]
        vit.pos_embed = nn.Parameter(torch.cat([prefix, resized_positions(grid, (side, side))], dim=1))
    vit.patch_embed.grid_size, vit.patch_embed.num_patches = (side, side), side * side


def resized_positions(positions: Tensor, grid: Grid) -> Tensor:
    """Positions (1, S*S, C) of a square grid on another, (1, H*W, C), bicubic in fp32 or float64; as they are where it is the same."""
    side = int(positions.shape[1] ** 0.5)
    if grid == (side, side):
        return positions
    wide = torch.promote_types(positions.dtype, torch.float32)
    map_1CHW = positions.to(wide).unflatten(1, (side, side)).permute(0, 3, 1, 2)
    return _bicubic(map_1CHW, grid).flatten(2).transpose(1, 2)


def _bicubic(maps: Tensor, size: Grid) -> Tensor:
    # on meta PyTorch works through the whole interpolation in Python: seconds, for a shape
    if maps.is_meta:
        return maps.new_empty(*maps.shape[:2], *size)
    return F.interpolate(maps, size=size, mode="bicubic", align_corners=False)


def resize_relative_positions(table: Tensor, window: int) -> Tensor:
    """A table of relative position biases ((2v-1)**2, N) for a window of `window` instead of v patches, as BEiT resizes it.

    Distances of the source grow in a geometric progression whose last one is `window` - 1, so that near positions keep their bias;
    a cubic spline runs through them.
    """
    source, target = round(table.shape[0] ** 0.5), 2 * window - 1
    if source == target:
        return table.clone()
    if table.is_meta:
        return table.new_empty(target**2, table.shape[1])
    from scipy.interpolate import RectBivariateSpline

    ratio = _progression_ratio(source // 2, target // 2)
    distances = [0.0]
    for step in range(source // 2):
        distances.append(distances[-1] + ratio**step)
    places = [-d for d in reversed(distances[1:])] + distances
    wanted = [float(d) for d in range(-(target // 2), target // 2 + 1)]
    maps = table.float().T.unflatten(1, (source, source))
    resized = [torch.from_numpy(RectBivariateSpline(places, places, m.numpy())(wanted, wanted)) for m in maps.cpu()]
    return torch.stack([m.flatten() for m in resized], dim=1).to(table)


def _progression_ratio(terms: int, total: float) -> float:
    """The ratio of a geometric progression from 1 whose `terms` terms sum to `total`."""
    low, high, ratio = 1.01, 1.5, 1.0
    # BEiT's bisection, from the same ends to the same 1e-6: one step more moves the biases by 2e-4
    while high - low > 1e-6:
        ratio = (low + high) / 2
        low, high = (low, ratio) if (1 - ratio**terms) / (1 - ratio) > total else (ratio, high)
    return ratio


def adapt(name: str, tensor: Tensor, wanted: torch.Size) -> tuple[Tensor, bool] | None:
    """A file's tensor in a network's shape, and whether that changed its values; None where no such change is known to be meant.

    Args:
        name: Of the parameter here.
        tensor: The file's.
        wanted: The shape here.
    """
    if tensor.numel() == math.prod(wanted) and [n for n in tensor.shape if n > 1] == [n for n in wanted if n > 1]:
        return tensor.reshape(wanted), False  # see naming.official_shape
    value = None
    if name.endswith("pos_embed") and len(wanted) == 3:
        value = _adapted_positions(tensor if tensor.ndim == 3 else tensor[None], wanted[1])
    elif name.endswith("relative_position_bias_table") and tensor.ndim == len(wanted) == 2:
        side, new_side = math.isqrt(tensor.shape[0]), math.isqrt(wanted[0])
        if tensor.shape[0] - side * side in (0, 3) and side % 2 and new_side % 2 and new_side**2 == wanted[0]:
            # without the three rows of the class token
            value = resize_relative_positions(tensor[: side * side], (new_side + 1) // 2)
    elif name.endswith("patch_embed.proj.weight") and tensor.ndim == len(wanted) == 4:
        value = _bicubic(tensor.float(), (wanted[2], wanted[3]))
    if value is None or value.shape != wanted:
        return None
    # a class token's rows (one of positions, three of a bias table) come and go and touch no others
    return value, tensor.ndim == 4 or abs(tensor.shape[-2] - wanted[-2]) not in (1, 3)


def _adapted_positions(positions: Tensor, count: int) -> Tensor | None:
    """(1, N, C) -> (1, count, C), each with or without a class token's row in front; None where one is no square."""
    sides = [
        next(((side, extra) for extra in (0, 1) if (side := math.isqrt(max(n - extra, 0))) ** 2 == n - extra > 0), None)
        for n in (positions.shape[1], count)
    ]
    if sides[0] is None or sides[1] is None:
        return None
    (_, extra), (side, new_extra) = sides[0], sides[1]
    grid = resized_positions(positions[:, extra:], (side, side))
    token = positions[:, :extra] if extra else positions.new_zeros(1, 1, positions.shape[2])
    return torch.cat([token[:, :new_extra].to(grid), grid], dim=1)
