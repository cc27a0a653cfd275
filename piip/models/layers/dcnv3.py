"""DCNv3 as a layer: the projections, offsets and masks around `piip.ops.dcnv3`."""

import torch
from torch import Tensor, nn

from piip.models.precision import at_least_fp32, without_autocast
from piip.ops.dcnv3 import dcnv3

# B batch, H W map, C channels, G groups, K = kernel_size ** 2 taps


class DCNv3(nn.Module):
    """A convolution whose taps look where the features tell them to (InternImage, arXiv 2211.05778).

    Offsets and mask of every pixel come from a depthwise convolution of the input. At initialisation both are zero and the
    operator is a box filter. Parameters are named as in the public weights. Offsets and masks are computed in fp32
    under autocast: in bf16 an offset of five pixels comes in steps of 1/32.

    Args:
        channels: C, of input and output.
        groups: Groups with offsets and masks of their own. InternImage-T to -XL have 16 channels a group, -H and -G 32.
        kernel_size: Taps a side.
        dw_kernel_size: Side of the depthwise convolution; `kernel_size` where it is not given, 5 for InternImage-H and -G.
        offset_scale: Factor of offsets and of the taps' distance: 2 for InternImage-L and -XL.
        center_feature_scale: Mix the pixel's own value in, by a gate for every group (InternImage-H, -G).

    Shape:
        x: (B, H, W, C).
        returns: the same.

    Raises:
        ValueError: `channels` does not divide by `groups`, or a kernel is even (maps would shrink).
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int,
        kernel_size: int = 3,
        dw_kernel_size: int | None = None,
        offset_scale: float = 1.0,
        center_feature_scale: bool = False,
    ) -> None:
        super().__init__()
        dw_kernel_size = dw_kernel_size or kernel_size
        if channels % groups:
            raise ValueError(f"{channels} channels do not divide by {groups} groups")
        if kernel_size % 2 == 0 or dw_kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size} and dw_kernel_size {dw_kernel_size} must be odd")
        self.groups, self.kernel_size, self.offset_scale = groups, kernel_size, offset_scale
        self.kernel = "auto"  # see SpeedSpec
        num_taps = groups * kernel_size**2
        self.dw_conv = nn.Sequential(
            nn.Conv2d(channels, channels, dw_kernel_size, padding=dw_kernel_size // 2, groups=channels),
            nn.Sequential(ToChannelsLast(), nn.LayerNorm(channels, eps=1e-6)),
            nn.GELU(),
        )
        self.offset = nn.Linear(channels, 2 * num_taps)
        self.mask = nn.Linear(channels, num_taps)
        self.input_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.center_feature_scale = center_feature_scale
        if center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.zeros(groups, channels))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.zeros(groups))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero offsets and masks, Xavier-uniform projections, no gate: the published start."""
        for layer in (self.offset, self.mask):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        if self.center_feature_scale:
            nn.init.zeros_(self.center_feature_scale_proj_weight)
            nn.init.zeros_(self.center_feature_scale_proj_bias)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        value = self.input_proj(x_BHWC)
        features = self.dw_conv(x_BHWC.permute(0, 3, 1, 2))
        with without_autocast(x_BHWC.device):
            features = at_least_fp32(features)
            offsets = self.offset(features)
            mask = self.mask(features).unflatten(-1, (self.groups, -1)).softmax(-1).flatten(-2)
        out = dcnv3(
            value,
            offsets,
            mask,
            groups=self.groups,
            kernel_size=self.kernel_size,
            pad=self.kernel_size // 2,
            offset_scale=self.offset_scale,
            kernel=self.kernel,
        )
        if self.center_feature_scale:
            weight, bias = self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias
            gate_BHWG = nn.functional.linear(features, weight, bias).sigmoid()
            gate = gate_BHWG.repeat_interleave(value.shape[-1] // self.groups, -1)
            out = torch.lerp(out, value, gate)
        return self.output_proj(out)


class ToChannelsLast(nn.Module):
    """(B, C, H, W) -> (B, H, W, C), a view; a module because the public weights count it."""

    def forward(self, x: Tensor) -> Tensor:
        """The view."""
        return x.permute(0, 2, 3, 1)
