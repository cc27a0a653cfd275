"""Detectors by anchors: Faster, Mask and Cascade R-CNN, RetinaNet."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from piip.contracts import Maps, Wish
from piip.spec.base import Added, HeadSpec
from piip.spec.forms import FormSpec

_Positive = Annotated[float, Field(gt=0)]
_Spreads = tuple[_Positive, _Positive, _Positive, _Positive]


class TwoStageSpec(HeadSpec):
    """Proposals on a feature pyramid, then boxes: mmdetection's `faster_rcnn_r50_fpn`, on torchvision's parts."""

    num_classes: int = Field(default=80, gt=0)
    """Foreground classes."""
    fpn_channels: int = Field(default=256, gt=0)
    anchor_scale: float = Field(default=8, gt=0)
    """Anchor side in strides; ratios are 1/2, 1, 2; strides 4..64."""
    rpn_pre_nms: int = Field(default=2000, gt=0)
    """Proposals per level before NMS in training (half of it in evaluation)."""
    rpn_post_nms: int = Field(default=1000, gt=0)
    """Proposals per image after NMS; in training of a Cascade, or in torchvision's dialect, twice as many."""
    box_samples: int = Field(default=512, gt=0)
    """Proposals per image the box head learns from; a quarter of them positive."""
    box_channels: int = Field(default=1024, gt=0)
    score_threshold: float = Field(default=0.05, ge=0, le=1)
    nms_threshold: float = Field(default=0.5, ge=0, le=1)
    max_detections: int = Field(default=100, gt=0)
    dialect: Annotated[Literal["mmdet", "detectron2", "detectron", "torchvision"], Added("mmdet")] = "mmdet"
    """Whose losses, anchors, RoIAlign and proposals: all differences stand in piip/models/heads/dialects.py."""
    form: Annotated[FormSpec, Added(FormSpec())] = FormSpec()
    """The maps that are read, and what heads are made of."""

    @property
    def wants(self) -> Wish:
        """What the backbone gives."""
        return Maps(self.form.strides)

    @property
    def files(self) -> dict[str, str]:
        """The pretraining of a res5 of its own."""
        weights = self.form.res5.weights
        return {"form.res5.weights": weights} if weights and self.form.maps == "c4" else {}

    @model_validator(mode="after")
    def _groups_fill_the_channels(self) -> Self:
        if self.form.norm == "group" and self.fpn_channels % 32:
            raise ValueError(f"form.norm 'group' has 32 groups, fpn_channels {self.fpn_channels} is no multiple of 32")
        return self


class MaskBranchSpec(HeadSpec):
    """The masks of a two-stage detector's boxes."""

    learns_masks: ClassVar[bool] = True

    mask_convs: int = Field(default=4, ge=0)
    mask_channels: int = Field(default=256, gt=0)


class FasterRCNNSpec(TwoStageSpec):
    """Faster R-CNN: boxes alone."""

    kind: Literal["faster_rcnn"] = "faster_rcnn"


class MaskRCNNSpec(MaskBranchSpec, TwoStageSpec):
    """Mask R-CNN, boxes and masks of objects: as in mmdetection's `mask_rcnn_r50_fpn`, on torchvision's parts."""

    kind: Literal["mask_rcnn"] = "mask_rcnn"

    @model_validator(mode="after")
    def _masks_fit_the_form(self) -> Self:
        if self.form.norm == "group" and self.mask_channels % 32:
            raise ValueError(
                f"form.norm 'group' has 32 groups, mask_channels {self.mask_channels} is no multiple of 32"
            )
        if self.form.maps == "c4" and self.mask_convs:
            raise ValueError(f"form.maps 'c4' draws masks on res5: set mask_convs to 0, not {self.mask_convs}")
        return self


class KeypointRCNNSpec(TwoStageSpec):
    """Keypoint R-CNN, boxes and keypoints of objects: as in Detectron's `e2e_keypoint_rcnn_R-50-FPN`, on torchvision's parts."""

    kind: Literal["keypoint_rcnn"] = "keypoint_rcnn"
    num_classes: int = Field(default=1, gt=0)
    """Foreground classes; all of them have the same keypoints."""
    num_keypoints: int = Field(default=17, gt=0)
    """Of an object, in the data's order; COCO's persons have 17."""
    keypoint_convs: int = Field(default=8, ge=1)
    keypoint_channels: int = Field(default=512, gt=0)

    @property
    def learned_keypoints(self) -> int:
        """All of them."""
        return self.num_keypoints

    @model_validator(mode="after")
    def _boxes_are_cut_for_keypoints(self) -> Self:
        if self.form.maps == "c4":
            raise ValueError("a keypoint branch has no res5 of its own: form.maps 'c4' is for Faster and Mask R-CNN")
        return self


class CascadeSpec(TwoStageSpec):
    """Box heads in a row, as in mmdetection's `cascade_rcnn_r50_fpn`; InternImage's form is in presets/families.py."""

    box_convs: int = Field(default=0, ge=0)
    """Convolutions with BatchNorm in front of each box head's linear layer; 0: two linear layers instead (InternImage has 4)."""
    class_agnostic: bool = True
    """One box for all classes; InternImage has one a class."""
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    """`giou`: on decoded boxes, times 10 (InternImage)."""
    stage_ious: tuple[float, ...] = (0.5, 0.6, 0.7)
    """Overlap from which a stage takes a box for an object."""
    stage_stds: tuple[_Spreads, ...] = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
    """Standard deviations that a stage's box deltas are divided by."""
    stage_weights: tuple[float, ...] = (1.0, 0.5, 0.25)
    """Of a stage's losses."""

    @model_validator(mode="after")
    def _stages_are_whole(self) -> Self:
        counts = [len(field) for field in (self.stage_ious, self.stage_stds, self.stage_weights)]
        if len(set(counts)) != 1 or not counts[0]:
            raise ValueError(
                f"stage_ious, stage_stds and stage_weights name {counts} stages: as many each, at least one"
            )
        return self

    @model_validator(mode="after")
    def _has_one_dialect(self) -> Self:
        if self.dialect != "mmdet":
            raise ValueError(f"a Cascade R-CNN is mmdetection's: dialect 'mmdet', got {self.dialect!r}")
        if self.form != FormSpec():
            raise ValueError(f"a Cascade R-CNN is mmdetection's, without another form, got maps {self.form.maps!r}")
        return self


class CascadeRCNNSpec(CascadeSpec):
    """Cascade R-CNN: boxes alone."""

    kind: Literal["cascade_rcnn"] = "cascade_rcnn"


class CascadeMaskRCNNSpec(MaskBranchSpec, CascadeSpec):
    """Cascade Mask R-CNN as in mmdetection's `cascade_mask_rcnn_r50_fpn`: a mask branch a stage, averaged in evaluation."""

    kind: Literal["cascade_mask_rcnn"] = "cascade_mask_rcnn"


class RetinaNetSpec(HeadSpec):
    """RetinaNet (arXiv 1708.02002) as in Detectron2's `retinanet_R_50_FPN`, on torchvision's parts."""

    kind: Literal["retinanet"] = "retinanet"
    num_classes: int = Field(default=80, gt=0)
    """Foreground classes."""
    fpn_channels: int = Field(default=256, gt=0)
    extra_levels: Literal["c5", "p5"] = "c5"
    """What the level at stride 64 is made of: the backbone's coarsest map, or the pyramid's (torchvision's newer networks)."""
    anchor_scale: float = Field(default=4, gt=0)
    """Anchor side in strides, and 2^(1/3) and 2^(2/3) times it; ratios are 1/2, 1, 2; strides 8..128."""
    tower_norm: Annotated[Literal["none", "group"], Added("none")] = "none"
    """Between the convolutions of classes' and boxes' towers: nothing, as published, or GroupNorm of 32 groups (torchvision's newer
    networks). Without it thousands of steps pass until classes are told apart."""
    focal_alpha: float = Field(default=0.25, ge=0, le=1)
    focal_gamma: float = Field(default=2.0, ge=0)
    box_beta: float = Field(default=0.0, ge=0)
    """Of the smooth L1 loss of boxes; 0 is L1."""
    pre_nms: int = Field(default=1000, gt=0)
    """Candidates per level before NMS."""
    score_threshold: float = Field(default=0.05, ge=0, le=1)
    nms_threshold: float = Field(default=0.5, ge=0, le=1)
    max_detections: int = Field(default=100, gt=0)

    @model_validator(mode="after")
    def _groups_fill_the_channels(self) -> Self:
        if self.tower_norm == "group" and self.fpn_channels % 32:
            raise ValueError(f"tower_norm group has 32 groups, fpn_channels {self.fpn_channels} is no multiple of 32")
        return self

    @property
    def wants(self) -> Wish:
        """What the backbone gives."""
        return Maps((8, 16, 32))
