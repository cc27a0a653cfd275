"""UperNet as in mmsegmentation (`upernet_r50`): pyramid pooling, a feature pyramid, one map to classify; an FCN beside it in training.

Names of parts are mmsegmentation's where a reader may know them, so that released files fit by two rules (weights/names/mmseg.py).
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from piip.contracts import IGNORE, Size
from piip.models.precision import Fp32Head, at_least_fp32, head_precision
from piip.spec import UPerNetSpec

AUXILIARY_LEVEL = 2
"""The map that the auxiliary head reads: stride 16."""


class UPerNet(Fp32Head):
    """Four maps -> a label for every pixel.

    Both heads run in fp32, as in the official code, unless `fp32_heads` is off (then their layers run under autocast, losses in fp32).
    Their BatchNorms see the images of one worker, or of all: see `share_statistics`.

    Args:
        channels: Of the backbone's four maps.
        spec: Sizes and weights.
    """

    def __init__(self, channels: Sequence[int], spec: UPerNetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.decode = Decoder(channels, spec)
        self.auxiliary = Auxiliary(channels[AUXILIARY_LEVEL], spec)

    def forward(
        self, features: Sequence[Tensor], sizes: Sequence[Size], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """`loss_seg` and `loss_aux` in training, {"logits": (classes, h, w) fp32} of an image's content in evaluation.

        Args:
            features: Four maps (B, C, H / s, W / s), s = 4, 8, 16, 32.
            sizes: Height and width of every image's content.
            targets: In training, per image: `labels` (H, W) int64 of the padded input, from 0, IGNORE where there is none.

        Raises:
            ValueError: In training, one image where pyramid pooling leaves one value a channel: BatchNorm has nothing to compare.
        """
        if not self.training:
            return [{"logits": logits} for logits in self._of_content(features, sizes)]
        assert targets is not None
        labels = torch.stack([target["labels"] for target in targets])
        size = (labels.shape[1], labels.shape[2])
        return {
            "loss_seg": pixel_loss(self._decoded(features, size), labels),
            "loss_aux": self.spec.aux_weight * pixel_loss(self._beside(features, size), labels),
        }

    def probe(self, features: Sequence[Tensor]) -> dict[str, Callable[[], Sequence[Tensor]]]:
        """`decode`, and `auxiliary`, which computes in training only."""
        size = (4 * features[0].shape[2], 4 * features[0].shape[3])
        return {
            "decode": lambda: [self._decoded(features, size)],
            "auxiliary": lambda: [self._beside(features, size)] if self.training else [],
        }

    def _decoded(self, features: Sequence[Tensor], size: Size) -> Tensor:
        with head_precision(features[0].device, fp32=self.fp32_heads):
            return resized(at_least_fp32(self.decode([at_least_fp32(feature) for feature in features])), size)

    def _beside(self, features: Sequence[Tensor], size: Size) -> Tensor:
        with head_precision(features[0].device, fp32=self.fp32_heads):
            return resized(at_least_fp32(self.auxiliary(at_least_fp32(features[AUXILIARY_LEVEL]))), size)

    def _of_content(self, features: Sequence[Tensor], sizes: Sequence[Size]) -> list[Tensor]:
        """Logits at the padded input's size, cut to each image's content."""
        # the padded size: what stride 4 says, or more where a side is no multiple of it and nothing was padded
        height, width = (max(4 * features[0].shape[2 + side], *(size[side] for size in sizes)) for side in (0, 1))
        logits = self._decoded(features, (height, width))
        return [one[:, :h, :w] for one, (h, w) in zip(logits, sizes, strict=True)]


class Decoder(nn.Module):
    """Pyramid pooling on the coarsest map, top down through the others, all four together to one map at stride 4.

    Args:
        channels: Of the four maps.
        spec: Width, pooling, dropout.
    """

    def __init__(self, channels: Sequence[int], spec: UPerNetSpec) -> None:
        super().__init__()
        width, scales = spec.channels, spec.pool_scales
        self.pool_scales = scales
        self.psp_modules = nn.ModuleList(conv_norm_relu(channels[-1], width, 1) for _ in scales)
        self.bottleneck = conv_norm_relu(channels[-1] + len(scales) * width, width, 3)
        self.lateral_convs = nn.ModuleList(conv_norm_relu(channel, width, 1) for channel in channels[:-1])
        self.fpn_convs = nn.ModuleList(conv_norm_relu(width, width, 3) for _ in channels[:-1])
        self.fpn_bottleneck = conv_norm_relu(len(channels) * width, width, 3)
        self.dropout = nn.Dropout2d(spec.dropout)
        self.conv_seg = classifier(width, spec.num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, H_i, W_i), fine to coarse -> logits (B, classes, H_0, W_0)."""
        levels = [conv(feature) for conv, feature in zip(self.lateral_convs, maps[:-1], strict=True)]
        levels.append(self._pooled(maps[-1]))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + resized(levels[i], _size(levels[i - 1]))
        levels = [*(conv(level) for conv, level in zip(self.fpn_convs, levels[:-1], strict=True)), levels[-1]]
        together = torch.cat([resized(level, _size(levels[0])) for level in levels], dim=1)
        return self.conv_seg(self.dropout(self.fpn_bottleneck(together)))

    def _pooled(self, coarsest: Tensor) -> Tensor:
        if self.training and len(coarsest) == 1 and 1 in self.pool_scales and _statistics_of_one(self.psp_modules):
            raise ValueError(
                "UperNet cannot train on one image a worker: pooled to one value a channel, BatchNorm has nothing to compare it with. "
                "Give each worker two images (train.batch_size, train.micro_batch, fewer workers)"
            )
        seen = [coarsest]
        for scale, conv in zip(self.pool_scales, self.psp_modules, strict=True):
            seen.append(resized(conv(F.adaptive_avg_pool2d(coarsest, scale)), _size(coarsest)))
        return self.bottleneck(torch.cat(seen, dim=1))


class Auxiliary(nn.Module):
    """An FCN on one map: a convolution and a classifier.

    Args:
        channels: Of the map.
        spec: Width, dropout.
    """

    def __init__(self, channels: int, spec: UPerNetSpec) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv_norm_relu(channels, spec.channels, 3)])
        self.dropout = nn.Dropout2d(spec.dropout)
        self.conv_seg = classifier(spec.channels, spec.num_classes)

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, classes, H, W)."""
        return self.conv_seg(self.dropout(self.convs[0](feature)))


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of all pixels, where those without a label count as 0 (mmsegmentation's `avg_non_ignore=False`).

    So a batch without any label gives 0 and not nan, and one with few has little to say.

    Args:
        logits: (B, classes, H, W).
        labels: (B, H, W) int64, IGNORE where there is none.
    """
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum") / labels.numel()


def resized(feature: Tensor, size: Size) -> Tensor:
    """(B, C, H, W) to another height and width, bilinear."""
    if _size(feature) == size:
        return feature
    return F.interpolate(feature, size=size, mode="bilinear", align_corners=False)


def conv_norm_relu(channels: int, width: int, kernel: int) -> nn.Sequential:
    """A convolution without bias (weights by He's rule), BatchNorm and ReLU; mmcv's ConvModule."""
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(width), relu=nn.ReLU()))


def classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """A 1x1 convolution to logits, which begin near 0."""
    conv = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _size(feature: Tensor) -> Size:
    return feature.shape[-2], feature.shape[-1]


def _statistics_of_one(module: nn.Module) -> bool:
    """Whether BatchNorms count this worker's images alone."""
    return not any(isinstance(part, nn.SyncBatchNorm) for part in module.modules())
