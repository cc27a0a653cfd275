"""#Param and #FLOPs of whole detectors as MPViT's paper prints them: arithmetic, nothing is built.

They are what fvcore counts of detectron2's network on one image of 800 x 1280 without the products inside attention: multiply-adds of
convolutions and linear layers without biases, two for an element that a BatchNorm sees and five for a LayerNorm's, one for every
upsampled one. Two-stage heads see 1000 boxes and 100 masks.
"""

from piip.contracts import Size
from piip.counting.published_parts import Count, linear
from piip.presets import MPVIT
from piip.spec import MaskRCNNSpec, ModelSpec, MPViTSpec, RetinaNetSpec
from piip.spec.mpvit import HEADS, NEIGHBOURHOODS

SIZES = {(known.channels, known.depths, known.paths) for known in MPVIT.values()}
SIZE: Size = (800, 1280)
BOXES, MASKS = 1000, 100


def detector(spec: ModelSpec) -> Count | None:
    """What the table prints of an MPViT of its sizes under RetinaNet or Mask R-CNN; None for others."""
    backbone, head = spec.backbone, spec.head
    assert isinstance(backbone, MPViTSpec)
    if (backbone.channels, backbone.depths, backbone.paths) not in SIZES:
        return None
    sizes = [_size(stride) for stride in (4, 8, 16, 32)]
    match head:
        case RetinaNetSpec():
            return mpvit(backbone) + _retinanet(head, backbone.out_channels[1:], sizes[1:])
        case MaskRCNNSpec():
            return mpvit(backbone) + _mask_rcnn(head, backbone.out_channels, sizes)
        case _:
            return None


def mpvit(spec: MPViTSpec) -> Count:
    """The backbone alone."""
    first = spec.channels[0]
    total = _normed(_size(2), 3, 3, first // 2) + _normed(_size(4), 3, first // 2, first)
    for stage, width in enumerate(spec.channels):
        size, paths = _size(4 * 2**stage), spec.paths[stage]
        patches = conv(size, 3, width, width, groups=width) + _normed(size, 1, width, width)
        local = _normed(size, 1, width, width) * 2 + _normed(size, 3, width, width, groups=width)
        total += patches * paths + local + _path(size, width, spec.depths[stage], spec.mlp_ratio) * paths
        total += _normed(size, 1, width * (paths + 1), spec.out_channels[stage])
    return total


def _path(size: Size, width: int, depth: int, mlp_ratio: float) -> Count:
    """A transformer, whose layers share the convolutions."""
    tokens, hidden = size[0] * size[1], int(width * mlp_ratio)
    shared = conv(size, 3, width, width, groups=width, bias=True)
    for side, heads in NEIGHBOURHOODS:
        part = heads * width // HEADS
        shared += conv(size, side, part, part, groups=part, bias=True)
    layer = linear(tokens, width, 3 * width) + linear(tokens, width, width)
    layer += linear(tokens, width, hidden) + linear(tokens, hidden, width)
    layer += Count(5 * tokens * width, 2 * width) * 2
    return layer * depth + Count(shared.flops * depth, shared.params)


def _pyramid(channels: tuple[int, ...], sizes: list[Size], width: int) -> Count:
    """A feature pyramid's convolutions and upsampling."""
    total = Count()
    for inputs, size in zip(channels, sizes, strict=True):
        total += conv(size, 1, inputs, width, bias=True) + conv(size, 3, width, width, bias=True)
    return total + Count(sum(rows * columns * width for rows, columns in sizes[:-1]))


def _retinanet(spec: RetinaNetSpec, channels: tuple[int, ...], sizes: list[Size]) -> Count:
    width, extra = spec.fpn_channels, [_size(64), _size(128)]
    total = _pyramid(channels, sizes, width)
    total += conv(extra[0], 3, channels[-1], width, bias=True) + conv(extra[1], 3, width, width, bias=True)
    for size in (*sizes, *extra):
        # nine anchors; the same weights at every level
        towers = conv(size, 3, width, width, bias=True) * 8 + conv(size, 3, width, 9 * spec.num_classes, bias=True)
        towers += conv(size, 3, width, 9 * 4, bias=True)
        total += towers if size == sizes[0] else Count(towers.flops)
    return total


def _mask_rcnn(spec: MaskRCNNSpec, channels: tuple[int, ...], sizes: list[Size]) -> Count:
    width, classes, inside = spec.fpn_channels, spec.num_classes, spec.box_channels
    total = _pyramid(channels, sizes, width)
    for size in (*sizes, _size(64)):
        proposals = conv(size, 3, width, width, bias=True)
        proposals += conv(size, 1, width, 3, bias=True) + conv(size, 1, width, 3 * 4, bias=True)
        total += proposals if size == sizes[0] else Count(proposals.flops)
    total += linear(BOXES, width * 49, inside) + linear(BOXES, inside, inside)
    total += linear(BOXES, inside, classes + 1) + linear(BOXES, inside, 4 * classes)
    cells, masks = (14 * MASKS, 14), spec.mask_channels
    for convolution in range(spec.mask_convs):
        total += conv(cells, 3, masks if convolution else width, masks, bias=True)
    return total + conv(cells, 2, masks, masks, bias=True) + conv((28 * MASKS, 28), 1, masks, classes, bias=True)


def conv(size: Size, kernel: int, inputs: int, outputs: int, *, groups: int = 1, bias: bool = False) -> Count:
    """A convolution that gives a map of `size` (a transposed one: that sees it); its bias is no FLOP."""
    weights = kernel**2 * inputs * outputs // groups
    return Count(size[0] * size[1] * weights, weights + bias * outputs)


def _normed(size: Size, kernel: int, inputs: int, outputs: int, *, groups: int = 1) -> Count:
    """A convolution and its BatchNorm."""
    norm = Count(2 * size[0] * size[1] * outputs, 2 * outputs)
    return conv(size, kernel, inputs, outputs, groups=groups) + norm


def _size(stride: int) -> Size:
    return -(-SIZE[0] // stride), -(-SIZE[1] // stride)
