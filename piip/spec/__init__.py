"""What an experiment is: one frozen, typed, JSON-serialisable tree. Imports no torch."""

from piip.spec.backbones import Backbone, BranchSpec, CNNSpec, Family, InteractionSpec, PIIPSpec
from piip.spec.base import Spec
from piip.spec.data import Ade20kSpec, CocoSpec, Data, ImageNetSpec
from piip.spec.detection import DetectionSpec
from piip.spec.detectors import (
    CascadeMaskRCNNSpec,
    CascadeRCNNSpec,
    CascadeSpec,
    FasterRCNNSpec,
    KeypointRCNNSpec,
    MaskBranchSpec,
    MaskRCNNSpec,
    RetinaNetSpec,
    TwoStageSpec,
)
from piip.spec.experiment import ExperimentSpec, PaperResult
from piip.spec.formats import CityscapesSpec, CrowdHumanSpec, KeypointsSpec, LvisSpec, OpenImagesSpec, VocSpec, YoloSpec
from piip.spec.forms import FormSpec
from piip.spec.heads import ClassifierSpec, DINOSpec, Head, UPerNetSpec
from piip.spec.internimage import InternImageForm, InternImageSpec
from piip.spec.model import ModelSpec
from piip.spec.mpvit import MPViTSpec
from piip.spec.networks import MIN_RESOLUTION
from piip.spec.resnet import BottleneckSpec, ResNetSpec
from piip.spec.speed import SpeedSpec
from piip.spec.training import OptimSpec, TrainSpec

__all__ = [
    "MIN_RESOLUTION",
    "Ade20kSpec",
    "Backbone",
    "BottleneckSpec",
    "BranchSpec",
    "CNNSpec",
    "CascadeMaskRCNNSpec",
    "CascadeRCNNSpec",
    "CascadeSpec",
    "CityscapesSpec",
    "ClassifierSpec",
    "CocoSpec",
    "CrowdHumanSpec",
    "DINOSpec",
    "Data",
    "DetectionSpec",
    "ExperimentSpec",
    "Family",
    "FasterRCNNSpec",
    "FormSpec",
    "Head",
    "ImageNetSpec",
    "InteractionSpec",
    "InternImageForm",
    "InternImageSpec",
    "KeypointRCNNSpec",
    "KeypointsSpec",
    "LvisSpec",
    "MPViTSpec",
    "MaskBranchSpec",
    "MaskRCNNSpec",
    "ModelSpec",
    "OpenImagesSpec",
    "OptimSpec",
    "PIIPSpec",
    "PaperResult",
    "ResNetSpec",
    "RetinaNetSpec",
    "Spec",
    "SpeedSpec",
    "TrainSpec",
    "TwoStageSpec",
    "UPerNetSpec",
    "VocSpec",
    "YoloSpec",
]
