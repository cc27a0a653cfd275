"""Networks: a spec's types choose code here, backbones in `build_backbone`, heads in `build_model`, and nowhere else."""

from functools import partial
from typing import assert_never

from torch import nn

from piip.contracts import Maps, Tokens, Wish
from piip.models.backbones.cnn import CNN
from piip.models.backbones.internimage import InternImage
from piip.models.backbones.mpvit import MPViT
from piip.models.backbones.piip import PIIP
from piip.models.backbones.resnet import ResNet
from piip.models.branches.build import build_branch
from piip.models.heads.c4 import C4RoIHeads
from piip.models.heads.cascade import Cascade
from piip.models.heads.classifier import Classifier, MapClassifier
from piip.models.heads.dino.head import DINO
from piip.models.heads.keypoints import KeypointRoIHeads
from piip.models.heads.rcnn import RCNN
from piip.models.heads.retinanet import RetinaNet
from piip.models.heads.roi_heads import build_roi_heads
from piip.models.heads.upernet import UPerNet
from piip.models.network import Network
from piip.models.sliding import Window
from piip.spec import (
    Backbone,
    CascadeSpec,
    ClassifierSpec,
    CNNSpec,
    DINOSpec,
    FasterRCNNSpec,
    FormSpec,
    InternImageSpec,
    KeypointRCNNSpec,
    MaskRCNNSpec,
    ModelSpec,
    MPViTSpec,
    PIIPSpec,
    ResNetSpec,
    RetinaNetSpec,
    UPerNetSpec,
)


def build_backbone(
    spec: Backbone,
    wish: Wish = Maps(),  # noqa: B008 (frozen)
    *,
    pretrained: bool = True,
) -> PIIP | CNN | InternImage | MPViT | ResNet:
    """The network that turns images (B, 3, H, W) into what a head wishes for.

    Args:
        spec: What to build.
        wish: Maps at certain strides, or the tokens of all branches.
        pretrained: False starts every part from random weights, whatever the spec says: for tests, and where a checkpoint follows.

    Raises:
        ValueError: This backbone cannot give that.
    """
    num_classes = wish.num_classes if isinstance(wish, Tokens) else None
    match spec:
        case PIIPSpec():
            branches = [build_branch(branch, pretrained, num_classes=num_classes) for branch in spec.branches]
            return PIIP(branches, spec, wish)
        case CNNSpec():
            return CNN(spec, wish, pretrained=pretrained)
        case InternImageSpec():
            return InternImage(spec, wish, pretrained=pretrained)
        case MPViTSpec():
            return MPViT(spec, wish)
        case ResNetSpec():
            return ResNet(spec, wish, pretrained=pretrained)
        case _:
            assert_never(spec)


def build_model(spec: ModelSpec, *, pretrained: bool = True) -> Network:
    """Backbone and head: losses in training, predictions in evaluation."""
    backbone = build_backbone(spec.backbone, spec.head.wants, pretrained=pretrained)
    head: nn.Module
    window: tuple[int, int] | None = None
    match spec.head:
        case FasterRCNNSpec(form=FormSpec(maps="c4")) | MaskRCNNSpec(form=FormSpec(maps="c4")):
            head = RCNN(backbone.out_channels, spec.head, partial(C4RoIHeads, pretrained=pretrained))
        case FasterRCNNSpec() | MaskRCNNSpec():
            head = RCNN(backbone.out_channels, spec.head, build_roi_heads)
        case KeypointRCNNSpec():
            head = RCNN(backbone.out_channels, spec.head, KeypointRoIHeads)
        case CascadeSpec():
            head = RCNN(backbone.out_channels, spec.head, Cascade)
        case RetinaNetSpec():
            head = RetinaNet(backbone.out_channels, spec.head)
        case UPerNetSpec():
            head = UPerNet(backbone.out_channels, spec.head)
            window = spec.head.window(spec.backbone.resolution)
        case DINOSpec():
            head = DINO(backbone.out_channels, spec.head)
        case ClassifierSpec(reads="map"):
            (channels,) = backbone.out_channels
            head = MapClassifier(channels, spec.head.num_classes)
        case ClassifierSpec():
            assert isinstance(backbone, PIIP)
            head = Classifier(backbone.branches, spec.head)
        case _:
            assert_never(spec.head)
    return Network(backbone, head, window and Window(*window))
