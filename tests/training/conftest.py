"""A few demo images drawn once per session, trials over them, and a process group of one."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from piip import home, presets
from piip.data.demo import Recipe, make_demo
from piip.data.sources import Source, locate
from piip.spec import ExperimentSpec
from piip.training.journal import RunRecord, create_run
from piip.training.trial import Trial

RECIPE = Recipe(train=6, val=3, sides=(96, 128), objects=(24, 76))


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training") / "demo"
    make_demo(folder, RECIPE)
    return folder


@pytest.fixture
def sources(demo_folder, piip_home) -> dict[str, Source]:
    """The demo data where a trial looks for it; a test may damage its copy."""
    shutil.copytree(demo_folder, home.data_root() / "demo")
    return {split: locate("demo", split) for split in ("train", "val")}


@pytest.fixture(scope="session")
def process_group():
    """What Ray Train makes for a trial of one worker."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def pico_spec(**changes) -> ExperimentSpec:
    """A real PIIP Mask R-CNN, as small as it gets: 128 px beside 64 px, batches of two."""
    spec = presets.mask_rcnn_pico(presets.pico("TB", (128, 64), pretrained=False), steps=4)
    few = {"train.batch_size": 2, "train.log_every": 1, "train.save_every": 2, "train.engine": "ddp",
           "optim.warmup_steps": 2, "model.head.rpn_pre_nms": 100, "model.head.rpn_post_nms": 30}  # fmt: skip
    return spec.override(few | {name.replace("__", "."): value for name, value in changes.items()})


def begin(key: str, spec: ExperimentSpec, sources) -> Trial:
    """A trial with its journal begun."""
    create_run(RunRecord(key, key, "tests", None))
    return Trial(spec, key, sources)
