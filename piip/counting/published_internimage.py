"""#Param and #FLOPs as InternImage's tables print them, of Mask and Cascade R-CNN: arithmetic, nothing is built.

The official script counts an image of 800 x 1280 with mmcv's hooks: one multiply-add is one FLOP, biases of convolutions count, norms
twice their elements, ReLU once, GELU, softmax and sums not, nor what is no module (gates of DCNv3, max pooling). DCNv3's sampling is
added: 5 a cell, channel and tap. Heads see 1000 boxes and 100 masks, in every stage of a cascade.
"""

from piip.counting.published_parts import Count, conv, linear, norm
from piip.spec import CascadeMaskRCNNSpec, CascadeSpec, InternImageForm, MaskRCNNSpec, TwoStageSpec

_HEIGHT, _WIDTH = 800, 1280
_BOXES, _MASKS = 1000, 100
_ANCHORS = 3


def detector(spec: InternImageForm, head: TwoStageSpec) -> Count:
    """The whole detector; no row of the background in boxes and masks, as mmdetection has them."""
    stages = len(head.stage_ious) if isinstance(head, CascadeSpec) else 1
    of_stage = _boxes(head) + (_masks(head) if isinstance(head, MaskRCNNSpec | CascadeMaskRCNNSpec) else Count())
    return body(spec) + _pyramid(spec, head.fpn_channels) + _proposals(head.fpn_channels) + of_stage * stages


def body(spec: InternImageForm) -> Count:
    """The backbone."""
    half = spec.channels // 2
    total = conv(_cells(2), 3, 3, half) + norm(_cells(2), half)
    total += conv(_cells(4), 3, half, spec.channels) + norm(_cells(4), spec.channels)
    for level, depth in enumerate(spec.depths):
        cells, width = _cells(4 * 2**level), spec.channels * 2**level
        total += _block(spec, cells, width, spec.groups[level]) * depth
        total += norm(cells, width) * (len(spec.post_norm_blocks) if level == 2 else 0)
        total += norm(cells, width) * (spec.norms != "post" or spec.center_feature_scale)
        if level < 3:
            after = _cells(8 * 2**level)
            total += conv(after, 3, width, 2 * width, bias=False) + norm(after, 2 * width)
    return total


def _block(spec: InternImageForm, cells: int, width: int, groups: int) -> Count:
    """DCNv3 of 3 x 3 taps, with two offsets and a weight each, and an MLP."""
    taps, hidden = 9, int(width * spec.mlp_ratio)
    total = norm(cells, width) * (4 if spec.norms == "res_post" else 2)
    total += conv(cells, spec.dw_kernel_size, width, width, groups=width) + norm(cells, width)
    total += linear(cells, width, 2 * taps * groups) + linear(cells, width, taps * groups)
    total += linear(cells, width, width) * 2 + Count(flops=5 * cells * taps * width)
    total += linear(cells, width, hidden) + linear(cells, hidden, width)
    gate, scale = groups * (width + 1) * spec.center_feature_scale, 2 * width * (spec.layer_scale is not None)
    return total + Count(params=gate + scale)


def _pyramid(spec: InternImageForm, width: int) -> Count:
    levels = [(_cells(4 * 2**level), spec.channels * 2**level) for level in range(4)]
    return sum((conv(cells, 1, given, width) + conv(cells, 3, width, width) for cells, given in levels), Count())


def _proposals(width: int) -> Count:
    """One head on five levels."""
    cells = sum(_cells(4 * 2**level) for level in range(5))
    return conv(cells, 3, width, width) + conv(cells, 1, width, _ANCHORS) + conv(cells, 1, width, 4 * _ANCHORS)


def _boxes(head: TwoStageSpec) -> Count:
    """Cells of 7 x 7 of a box, then one or two hidden layers."""
    width, hidden, cells = head.fpn_channels, head.box_channels, _BOXES * 49
    convs = head.box_convs if isinstance(head, CascadeSpec) else 0
    total = (conv(cells, 3, width, width, bias=False) + norm(cells, width) + _relu(cells * width)) * convs
    total += linear(_BOXES, 49 * width, hidden) + _relu(_BOXES * hidden)
    if not convs:
        total += linear(_BOXES, hidden, hidden) + _relu(_BOXES * hidden)
    boxes = 1 if isinstance(head, CascadeSpec) and head.class_agnostic else head.num_classes
    return total + linear(_BOXES, hidden, head.num_classes + 1) + linear(_BOXES, hidden, 4 * boxes)


def _masks(head: MaskRCNNSpec | CascadeMaskRCNNSpec) -> Count:
    """Cells of 14 x 14 of a mask, then twice as many a side."""
    width, cells = head.mask_channels, _MASKS * 196
    total = (conv(cells, 3, width, width) + _relu(cells * width)) * head.mask_convs
    twice = Count(cells * 4 * (width * width + width), 4 * width * width + width)
    return total + twice + _relu(cells * 4 * width) + conv(4 * cells, 1, width, head.num_classes)


def _cells(stride: int) -> int:
    return -(-_HEIGHT // stride) * -(-_WIDTH // stride)


def _relu(elements: int) -> Count:
    return Count(flops=elements)
