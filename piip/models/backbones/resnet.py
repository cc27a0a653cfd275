"""ResNet and ResNeXt as Detectron has them, of torchvision's blocks (arXiv 1512.03385, 1611.05431)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from piip.contracts import Maps, Wish
from piip.models.backbones.wishes import strides_of
from piip.spec import BottleneckSpec, ResNetSpec
from piip.weights.names.detectron import fit_body
from piip.weights.sources import read_weights


class Affine(nn.Module):
    """A factor and a summand a channel that never learn: BatchNorm with its statistics folded in, as Detectron's files have it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(channels), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), in the type it comes in."""
        weight, bias = (p.to(x.dtype)[:, None, None] for p in (self.weight, self.bias))
        return torch.addcmul(bias, x, weight)


def level_of(spec: BottleneckSpec, level: int, *, blocks: int, channels: int, dilation: int = 1) -> nn.Sequential:
    """A level's blocks; maps (B, channels, H, W) -> (B, C, H / s, W / s), s = 2, or 1 of the first level and of a dilated one.

    Args:
        spec: What blocks are made of.
        level: 0 to 3, res2 to res5.
        blocks: How many.
        channels: Of the maps it is given.
        dilation: Of the 3x3 convolutions.
    """
    planes = spec.channels * 2**level
    stride = 2 if level and dilation == 1 else 1
    block = partial(
        Bottleneck, planes=planes, groups=spec.groups, base_width=spec.width_per_group, dilation=dilation, norm_layer=norm_of(spec)
    )  # fmt: skip
    shortcut = nn.Sequential(nn.Conv2d(channels, 4 * planes, 1, stride=stride, bias=False), norm_of(spec)(4 * planes))
    first = block(channels, stride=stride, downsample=shortcut)
    if spec.stride_in == "1x1":
        first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
    made = nn.Sequential(first, *(block(4 * planes) for _ in range(1, blocks)))
    draw(made)
    return made


def norm_of(spec: BottleneckSpec) -> Callable[..., nn.Module]:
    """Channels -> their norm."""
    return Affine if spec.norm == "affine" else partial(nn.GroupNorm, spec.norm_groups)


def draw(module: nn.Module) -> None:
    """He et al.'s initial weights."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def load_pretraining(module: nn.Module, spec: BottleneckSpec, *, prefix: str = "") -> None:
    """Load `spec.weights`, where there are any, into a backbone or into a part of one.

    Args:
        module: Built.
        spec: Names the file.
        prefix: Where the part is in a backbone: `levels.res5.`.

    Raises:
        WeightsError: The file cannot be had, is damaged, or is of another network.
    """
    if spec.weights is None:
        return
    wanted = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    fitted, report = fit_body(read_weights(spec.weights), wanted, spec)
    report.require()
    module.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in fitted.items()})


class ResNet(nn.Module):
    """Image -> maps at those of its strides that the head asks for; levels behind the last of them are not built.

    Args:
        spec: Its sizes.
        wish: Maps.
        pretrained: False starts from random weights, whatever the spec says.
    """

    def __init__(self, spec: ResNetSpec, wish: Wish = Maps(), *, pretrained: bool = True) -> None:  # noqa: B008 (frozen)
        super().__init__()
        given = (4, 8, 16, 32) if spec.res5_dilation == 1 else (4, 8, 16, 16)
        self.strides = strides_of(wish, given, what=f"a ResNet of res5_dilation {spec.res5_dilation}")
        # of two levels at stride 16 the later one is meant
        self._taken = [max(level for level in range(4) if given[level] == stride) for stride in self.strides]
        self.conv1 = nn.Conv2d(3, spec.channels, 7, stride=2, padding=3, bias=False)
        self.norm1 = norm_of(spec)(spec.channels)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        draw(self.conv1)
        widths = [spec.channels, *(4 * spec.channels * 2**level for level in range(4))]
        self.levels = nn.ModuleDict()
        for level in range(max(self._taken) + 1):
            dilation = spec.res5_dilation if level == 3 else 1
            self.levels[f"res{level + 2}"] = level_of(
                spec, level, blocks=spec.depths[level], channels=widths[level], dilation=dilation
            )
        self.out_channels = [widths[level + 1] for level in self._taken]
        if pretrained:
            load_pretraining(self, spec)
        parts = [nn.ModuleList([self.conv1, self.norm1]), *self.levels.values()]
        for part in parts[: spec.freeze_at]:
            part.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps (B, C_i, H/s, W/s), s in `strides`."""
        x = self.pool(self.relu(self.norm1(self.conv1(images))))
        maps = []
        for level in self.levels.values():
            x = level(x)
            maps.append(x)
        return [maps[level] for level in self._taken]

    def part_of(self, name: str) -> str:
        """All of it is one row of the cost table."""
        del name
        return "backbone"

    def layer_ids(self, *, exact: bool = False) -> dict[str, float]:
        """Every parameter at distance 0, `exact` or not: Detectron has no layer-wise decay."""
        return {name: 0 for name, _ in self.named_parameters()}
