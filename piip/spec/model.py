"""Heads, and a model: a backbone and a head."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from piip.spec.backbones import CNNSpec, PIIPSpec
from piip.spec.base import Spec


class MaskRCNNSpec(Spec):
    """Mask R-CNN as in mmdetection's `mask_rcnn_r50_fpn`, on torchvision's parts."""

    kind: Literal["mask_rcnn"] = "mask_rcnn"
    num_classes: int = Field(default=80, gt=0)
    """Foreground classes."""
    fpn_channels: int = 256
    anchor_scale: float = 8
    """Anchor side in strides; ratios are 1/2, 1, 2; strides 4..64."""
    rpn_pre_nms: int = 2000
    """Proposals per level before NMS in training (half of it in evaluation)."""
    rpn_post_nms: int = 1000
    """Proposals per image after NMS, training and evaluation."""
    box_samples: int = 512
    """Proposals per image the box head learns from; a quarter of them positive."""
    box_channels: int = 1024
    mask_convs: int = 4
    mask_channels: int = 256
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100


class DINOSpec(Spec):
    """DINO (4-scale) detector; its backbone gives three maps. Only the backbone is built so far."""

    kind: Literal["dino"] = "dino"
    num_classes: int = Field(default=80, gt=0)
    """Foreground classes."""
    num_queries: int = Field(default=900, gt=0)


class UPerNetSpec(Spec):
    """UperNet for semantic segmentation with an auxiliary FCN head. Only the backbone is built so far."""

    kind: Literal["upernet"] = "upernet"
    num_classes: int = Field(default=150, gt=0)
    channels: int = Field(default=1536, gt=0)


class ClassifierSpec(Spec):
    """Image classification on the tokens of all branches; the backbone has fpn='none'."""

    kind: Literal["classifier"] = "classifier"
    num_classes: int = Field(default=1000, gt=0)
    merge: bool = False
    """False: a norm and a linear layer per branch, logits averaged (released). True: branches merged, then one of both."""
    head_token: Literal["first_patch", "class", "mean"] = "class"
    """What separate heads read. `first_patch`, the upper left one, is what the released networks were trained and scored with (a
    slip: class tokens were split off one line before); merged heads always take the mean."""


Backbone = Annotated[PIIPSpec | CNNSpec, Field(discriminator="kind")]
Head = Annotated[MaskRCNNSpec | DINOSpec | UPerNetSpec | ClassifierSpec, Field(discriminator="kind")]


class ModelSpec(Spec):
    """A backbone and a head."""

    backbone: Backbone
    head: Head = MaskRCNNSpec()
    weights: str | None = None
    """Fine-tune: start from all weights of this file, DeepSpeed folder or checkpoint of ours, instead of the branches' pretraining
    (upstream's `deepspeed_load_module_only`). Optimizer and step start anew."""
    weights_partial: bool = False
    """Start although tensors are missing in `weights` or have no place here: another head, other classes."""

    @model_validator(mode="after")
    def _head_suits_backbone(self) -> Self:
        if isinstance(self.backbone, PIIPSpec) and (self.backbone.fpn == "none") != (self.head.kind == "classifier"):
            raise ValueError(
                f"a {self.head.kind} head does not go with fpn={self.backbone.fpn!r}: a classifier takes 'none', others maps"
            )
        return self
