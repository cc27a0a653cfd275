"""DCNv3, InternImage's operator: the op, its plain PyTorch reference, and the choice between the two."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from piip.ops import msda
from piip.ops.choice import choose, prepare
from piip.ops.gradients import differentiable

# B batch, H W value map, Ho Wo output map, G groups, D channels per group, K taps of a group


def dcnv3(
    value: Tensor,
    offsets: Tensor,
    mask: Tensor,
    *,
    groups: int,
    kernel_size: int = 3,
    stride: int = 1,
    pad: int = 1,
    dilation: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    kernel: str = "auto",
) -> Tensor:
    """Every output pixel sums weighted samples around its own place, group by group (InternImage, arXiv 2211.05778).

    Tap t = i * kernel_size + j of output pixel (row r, column c) looks at x = half - pad + c * stride + offset_scale *
    (i * dilation - half + dx) and y = half - pad + r * stride + offset_scale * (j * dilation - half + dy), with half =
    dilation * (kernel_size - 1) // 2: taps go down the columns, and `offset_scale` widens the whole grid. Samples are bilinear
    between pixel centres, zero outside the map. The mask is the only weight, used as it is; a softmax is the caller's.

    Dtypes: offsets, mask and sums are float32 (float64 for a float64 `value`), whatever the inputs are. The result has
    `value`'s dtype, each gradient its own input's. Second derivatives exist for `kernel="reference"` only.

    Args:
        value: (B, H, W, G * D).
        offsets: (B, Ho, Wo, G * K * 2) x, y in pixels; Ho = (H + 2 * pad - dilation * (kernel_size - 1) - 1) // stride + 1.
        mask: (B, Ho, Wo, G * K).
        groups: G.
        kernel_size: Taps a side; K is its square, less one with `remove_center`.
        stride: Value pixels from one output pixel to the next.
        pad: Zeros around the map.
        dilation: Pixels between taps.
        offset_scale: Factor of offsets and of the taps' distance.
        remove_center: There is no tap in the middle.
        kernel: "reference" (PyTorch ops), "cpp" (csrc/, CPU), "cuda" (csrc/, at most 64 taps) or "auto": the fastest that can run.
            PIIP_KERNEL replaces "auto". On a GPU the gradient of `value` is summed by atomic additions, in any order: its last bits
            vary, unless `torch.use_deterministic_algorithms(True)`, which is slower.

    Returns:
        (B, Ho, Wo, G * D).

    Raises:
        ValueError: Shapes do not fit each other, or there is no such kernel.
        RuntimeError: A kernel was asked for that cannot run here.
    """
    _check(value, offsets, mask, (kernel_size, stride, pad, dilation, groups, remove_center))
    given, grid = value.dtype, (kernel_size, stride, pad, dilation, groups, offset_scale, remove_center)
    chosen = choose("dcnv3", kernel, value)
    value, offsets, mask = prepare(value, offsets, mask, kernel=chosen)
    if chosen == "reference":
        return reference(value, offsets, mask, *grid).to(given)
    return _run(value, offsets, mask, *grid).to(given)


def reference(
    value: Tensor,
    offsets: Tensor,
    mask: Tensor,
    kernel_size: int,
    stride: int,
    pad: int,
    dilation: int,
    groups: int,
    offset_scale: float,
    remove_center: bool,
) -> Tensor:
    """`dcnv3` in PyTorch ops, all in one dtype."""
    batch, height, width, channels = value.shape
    rows, columns = mask.shape[1:3]

    def numbers(stop: int) -> Tensor:
        return torch.arange(stop, device=value.device, dtype=value.dtype)

    half = dilation * (kernel_size - 1) // 2
    taps = offset_scale * (numbers(kernel_size) * dilation - half)
    taps_K2 = torch.stack((taps.repeat_interleave(kernel_size), taps.repeat(kernel_size)), -1)
    if remove_center:
        centre = (kernel_size**2 - 1) // 2
        taps_K2 = torch.cat((taps_K2[:centre], taps_K2[centre + 1 :]))
    x_Q, y_Q = numbers(columns).repeat(rows), numbers(rows).repeat_interleave(columns)
    centres_Q2 = torch.stack((x_Q, y_Q), -1) * stride + (half - pad)
    offsets_BQGK2 = offsets.reshape(batch, rows * columns, groups, len(taps_K2), 2)
    pixels_BQGK2 = centres_Q2[:, None, None] + taps_K2 + offset_scale * offsets_BQGK2

    size_2 = torch.tensor([width, height], device=value.device, dtype=value.dtype)
    out = msda.reference(
        value.reshape(batch, height * width, groups, channels // groups),
        [(height, width)],
        ((pixels_BQGK2 + 0.5) / size_2)[:, :, :, None],
        mask.reshape(batch, rows * columns, groups, 1, len(taps_K2)),
    )
    return out.view(batch, rows, columns, channels)


def output_hw(value_hw: tuple[int, int], kernel_size: int, stride: int, pad: int, dilation: int) -> tuple[int, int]:
    """Rows and columns of the output map."""
    rows, columns = ((size + 2 * pad - dilation * (kernel_size - 1) - 1) // stride + 1 for size in value_hw)
    return rows, columns


def _check(value: Tensor, offsets: Tensor, mask: Tensor, geometry: tuple[int, int, int, int, int, bool]) -> None:
    kernel_size, stride, pad, dilation, groups, remove_center = geometry
    if min(kernel_size, stride, dilation, groups) < 1 or pad < 0:
        raise ValueError(
            "kernel_size, stride, dilation and groups must be at least 1 and pad at least 0, "
            f"got {kernel_size}, {stride}, {dilation}, {groups} and {pad}"
        )
    if value.ndim != 4 or value.shape[3] % groups:
        raise ValueError(f"value must be (B, H, W, C) with C a multiple of groups {groups}, got {tuple(value.shape)}")
    hw = output_hw((value.shape[1], value.shape[2]), kernel_size, stride, pad, dilation)
    taps = kernel_size**2 - remove_center
    if min(value.shape[1:3]) < 1 or min(hw) < 1 or taps < 1:
        raise ValueError(f"value {tuple(value.shape)} with pad {pad} is smaller than the kernel, or no tap is left")
    for name, tensor, last in (("offsets", offsets, 2 * groups * taps), ("mask", mask, groups * taps)):
        if tensor.shape != (value.shape[0], *hw, last):
            raise ValueError(
                f"{name} must be {(value.shape[0], *hw, last)} for value {tuple(value.shape)}, got {tuple(tensor.shape)}"
            )


_LIBRARY = torch.library.Library("piip", "FRAGMENT")
_INPUTS = (
    "Tensor value, Tensor offsets, Tensor mask, SymInt kernel_size, SymInt stride, SymInt pad, SymInt dilation, "
    "SymInt groups, float offset_scale, bool remove_center"
)
_LIBRARY.define(f"dcnv3_forward({_INPUTS}) -> Tensor")
_LIBRARY.define(f"dcnv3_backward(Tensor grad_out, {_INPUTS}, *, bool deterministic=False) -> (Tensor, Tensor, Tensor)")


@torch.library.register_fake("piip::dcnv3_forward", lib=_LIBRARY)
def _(value: Tensor, offsets: Tensor, mask: Tensor, *grid: Any) -> Tensor:
    return value.new_empty(*mask.shape[:3], value.shape[3])


@torch.library.register_fake("piip::dcnv3_backward", lib=_LIBRARY)
def _(
    grad_out: Tensor, value: Tensor, offsets: Tensor, mask: Tensor, *grid: Any, deterministic: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    value, offsets, mask = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (value, offsets, mask))
    return value, offsets, mask


_run = differentiable("dcnv3", _LIBRARY)


@register_flop_formula(torch.ops.piip.dcnv3_forward)
def _flops(value_shape: torch.Size, offsets: Any, mask_shape: torch.Size, *args: Any, **kwargs: Any) -> int:
    """2 * MACs; MACs = 5 per output pixel, tap and channel: four bilinear corners and the mask, as InternImage counts."""
    groups = args[4] if len(args) > 4 else kwargs["groups"]
    return 2 * 5 * mask_shape.numel() * (value_shape[3] // groups)
