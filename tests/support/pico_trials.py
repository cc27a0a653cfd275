"""Trials of the smallest real PIIP Mask R-CNN."""

from collections.abc import Mapping

from piip import presets
from piip.data.sources import Source
from piip.record.runs import RunRecord, create_run
from piip.record.trial import Trial
from piip.spec import ExperimentSpec


def pico_spec(**changes) -> ExperimentSpec:
    """A real PIIP Mask R-CNN, as small as it gets: 128 px beside 64 px, batches of two."""
    spec = presets.mask_rcnn_pico(presets.pico("TB", (128, 64), pretrained=False), steps=4)
    few = {"train.batch_size": 2, "train.log_every": 1, "train.save_every": 2, "train.engine": "ddp",
           "optim.warmup_steps": 2, "speed.kernel": "reference",
           "model.head.rpn_pre_nms": 100, "model.head.rpn_post_nms": 30}  # fmt: skip
    return spec.override(few | {name.replace("__", "."): value for name, value in changes.items()})


def begin(key: str, spec: ExperimentSpec, sources: Mapping[str, Source]) -> Trial:
    """A trial with its journal begun."""
    create_run(RunRecord(key, key, "tests", None))
    return Trial(spec, key, sources)
