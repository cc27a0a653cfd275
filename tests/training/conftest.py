"""A few demo images drawn once per session, and a process group of one."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from piip import home
from piip.data.demo import Recipe, make_demo
from piip.data.sources import Source, locate

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
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
            patch.setenv(name, value)
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        yield
        dist.destroy_process_group()
