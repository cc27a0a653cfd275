"""What an experiment is: one frozen, typed, JSON-serialisable tree. Imports no torch."""

from piip.spec.backbones import MIN_RESOLUTION, BranchSpec, CNNSpec, Family, InteractionSpec, PIIPSpec
from piip.spec.base import Spec
from piip.spec.experiment import ExperimentSpec, PaperResult
from piip.spec.model import (
    Backbone,
    ClassifierSpec,
    DINOSpec,
    Head,
    MaskRCNNSpec,
    ModelSpec,
    UPerNetSpec,
)
from piip.spec.training import CocoSpec, OptimSpec, SpeedSpec, TrainSpec

__all__ = [
    "MIN_RESOLUTION",
    "Backbone",
    "BranchSpec",
    "CNNSpec",
    "ClassifierSpec",
    "CocoSpec",
    "DINOSpec",
    "ExperimentSpec",
    "Family",
    "Head",
    "InteractionSpec",
    "MaskRCNNSpec",
    "ModelSpec",
    "OptimSpec",
    "PIIPSpec",
    "PaperResult",
    "Spec",
    "SpeedSpec",
    "TrainSpec",
    "UPerNetSpec",
]
