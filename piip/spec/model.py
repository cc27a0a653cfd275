"""A model: a backbone and a head."""

from dataclasses import replace

from piip.contracts import Input
from piip.spec.backbones import Backbone
from piip.spec.base import Spec
from piip.spec.detectors import MaskRCNNSpec
from piip.spec.heads import Head


class ModelSpec(Spec):
    """A backbone and a head."""

    backbone: Backbone
    head: Head = MaskRCNNSpec()
    weights: str | None = None
    """Fine-tune: start from all weights of this file, DeepSpeed folder or checkpoint of ours, instead of the branches' pretraining
    (upstream's `deepspeed_load_module_only`). Optimizer and step start anew."""
    weights_partial: bool = False
    """Start although tensors are missing in `weights` or have no place here: another head, other classes."""

    @property
    def input(self) -> Input:
        """What data sets prepare images, and targets, for."""
        return replace(self.backbone.input, masks=self.head.learns_masks, keypoints=self.head.learned_keypoints)

    @property
    def samples(self) -> bool:
        """Whether places of maps are sampled anywhere in it: what `speed.kernel` is about."""
        return self.backbone.samples or self.head.samples
