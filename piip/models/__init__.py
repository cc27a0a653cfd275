"""Networks: `build_model` for a whole detector, `build_backbone` for image -> feature maps. The only dispatch there is."""

from typing import assert_never

from torch import Tensor, nn

from piip.models.backbones.cnn import CNN
from piip.models.backbones.piip import PIIP
from piip.models.branches.vit import build_branch
from piip.models.heads.classifier import Classifier
from piip.models.heads.rcnn import MaskRCNN
from piip.spec import Backbone, ClassifierSpec, CNNSpec, DINOSpec, MaskRCNNSpec, ModelSpec, PIIPSpec, UPerNetSpec


class Headless(nn.Module):
    """A backbone whose head does not exist here yet: it builds, counts and loads, gives maps, and refuses to train."""

    def __init__(self, backbone: nn.Module, head: str) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor, targets: object = None) -> list[Tensor]:
        """(B, 3, H, W) -> the backbone's maps.

        Raises:
            ValueError: In training: there is no head to give losses.
        """
        if self.training or targets is not None:
            raise ValueError(
                f"the {self.head} head is not written yet: this network can be built, counted and loaded, not trained. "
                "Heads that train: mask_rcnn, classifier"
            )
        return self.backbone(images)


def build_backbone(spec: Backbone, *, pretrained: bool = True, num_classes: int | None = None) -> PIIP | CNN:
    """The network that turns images (B, 3, H, W) into maps at strides 4, 8, 16, 32.

    Args:
        spec: What to build.
        pretrained: False starts every part from random weights, whatever the spec says: for tests, and where a checkpoint follows.
        num_classes: Of the heads that every branch keeps for a classifier; None keeps none.
    """
    match spec:
        case PIIPSpec():
            return PIIP([build_branch(branch, pretrained, num_classes=num_classes) for branch in spec.branches], spec)
        case CNNSpec():
            return CNN(spec, pretrained=pretrained)
        case _:
            assert_never(spec)


def build_model(spec: ModelSpec, *, pretrained: bool = True) -> nn.Module:
    """Backbone and head: losses in training, predictions in evaluation."""
    separate = isinstance(spec.head, ClassifierSpec) and not spec.head.merge
    num_classes = spec.head.num_classes if separate else None
    backbone = build_backbone(spec.backbone, pretrained=pretrained, num_classes=num_classes)
    match spec.head:
        case MaskRCNNSpec():
            return MaskRCNN(backbone, spec.head)
        case DINOSpec() | UPerNetSpec():
            return Headless(backbone, spec.head.kind)
        case ClassifierSpec():
            if not isinstance(backbone, PIIP):
                raise ValueError("a classifier head reads the branches of a PIIP, not a CNN")
            return Classifier(backbone, spec.head)
        case _:
            assert_never(spec.head)
