"""Shared fixtures: a home of its own for every test, and COCO-format data on disk."""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

try:
    from hypothesis import settings
except ImportError:  # `pytest -m gpu tests/ops` does without
    settings = None

from piip.home import package_root

if settings:  # how long an example takes says how busy the machine is
    settings.register_profile("piip", deadline=None, derandomize=True)
    settings.register_profile("fuzz", deadline=None)
    settings.load_profile("piip")

os.environ.setdefault("OMP_NUM_THREADS", "1")

CATEGORIES = [{"id": 9, "name": "kite"}, {"id": 2, "name": "cat"}, {"id": 7, "name": "dog"}]
"""Not in order and with gaps, as users' files have them."""


LONGEST = ["sweeps", "test_zero", "verbs", "test_run"]
"""Groups of tests that start first, the longest in front, so that no process waits for another's last one."""

WHOLE = ("sweeps", "verbs")
"""Folders that are one group."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config, items) -> None:
    """For `pytest -n 2 --dist loadgroup`: files stay whole. So do two folders: sweeps take both cores, verbs share a training."""
    if not hasattr(config, "workerinput"):
        return
    groups = {item: item.path.parent.name if item.path.parent.name in WHOLE else item.path.stem for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: [*LONGEST, groups[item]].index(groups[item]))


@pytest.fixture(scope="session")
def kernels(tmp_path_factory) -> Path:
    """Compiled kernels for the whole session: those that `make setup` compiled (a hash names them), or one fresh folder."""
    made = package_root() / "runs" / "kernels"
    return made if made.is_dir() else tmp_path_factory.mktemp("kernels")


@pytest.fixture(autouse=True)
def piip_home(tmp_path_factory, monkeypatch, kernels) -> Path:
    """PIIP_HOME in a folder of this test's."""
    home = tmp_path_factory.mktemp("home")
    (home / "kernels").symlink_to(kernels)
    monkeypatch.setenv("PIIP_HOME", str(home))
    for name in ("PIIP_DATA", "PIIP_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """MLflow's schema takes seconds to make, so it is made once."""
    from piip.tracking.store import Store

    path = tmp_path_factory.mktemp("schema") / "mlflow.db"
    with pytest.raises(ValueError, match="It has no runs yet"):
        Store(f"sqlite:///{path}").get_run("none")
    return path


@dataclass
class CocoFolder:
    """Builds COCO-format data: `add_image`, `add_object`, then `write`."""

    root: Path
    document: dict[str, Any] = field(
        default_factory=lambda: {"images": [], "annotations": [], "categories": [dict(c) for c in CATEGORIES]}
    )

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def annotations(self) -> Path:
        return self.root / "instances.json"

    def add_image(self, width: int = 64, height: int = 48, name: str | None = None, pixels=None) -> int:
        image_id = 10 + 3 * len(self.document["images"])
        name = name or f"{image_id:012d}.jpg"
        if pixels is None:
            pixels = np.random.default_rng(image_id).integers(0, 255, (height, width, 3), dtype=np.uint8)
        (self.images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(self.images / name)
        self.document["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        return image_id

    def add_object(self, image_id: int, box=(8, 8, 20, 16), *, category: int = 2, form: str = "polygon", **more) -> int:
        """An object that fills its box; `form` is polygon, counts (uncompressed RLE) or rle (compressed)."""
        from pycocotools import mask as rle  # `pytest -m gpu tests/ops` does without

        image = next(i for i in self.document["images"] if i["id"] == image_id)
        x, y, w, h = box
        segmentation: Any = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if form != "polygon":
            mask = np.zeros((image["height"], image["width"]), dtype=np.uint8)
            mask[int(y) : int(y + h), int(x) : int(x + w)] = 1
            encoded = rle.encode(np.asfortranarray(mask))
            segmentation = {"size": [image["height"], image["width"]], "counts": encoded["counts"].decode()}
            if form == "counts":
                edges = np.flatnonzero(np.diff(mask.ravel(order="F"), append=2))
                segmentation["counts"] = np.diff(edges + 1, prepend=0).tolist()
        annotation_id = 101 + len(self.document["annotations"])
        self.document["annotations"].append(
            {"id": annotation_id, "image_id": image_id, "category_id": category, "bbox": list(box), "area": w * h,
             "iscrowd": 0, "segmentation": segmentation} | more
        )  # fmt: skip
        return annotation_id

    def write(self):
        from piip.data.sources import Source

        self.annotations.write_text(json.dumps(self.document))
        return Source(self.annotations, self.images)


@pytest.fixture
def coco_folder(tmp_path) -> CocoFolder:
    """An empty one, to add to."""
    return CocoFolder(tmp_path / "coco")


@pytest.fixture
def tiny_coco(coco_folder):
    """Four images on disk as a Source: three classes, all forms of masks, a crowd, an image without objects."""
    first, second, third, _ = (coco_folder.add_image(*size) for size in ((64, 48), (48, 64), (96, 64), (64, 64)))
    coco_folder.add_object(first, (8, 8, 20, 16), category=2)
    coco_folder.add_object(first, (30, 10, 24, 30), category=9, form="counts")
    coco_folder.add_object(second, (5, 6, 30, 40), category=7, form="rle")
    coco_folder.add_object(third, (0, 0, 96, 20), category=2, form="counts", iscrowd=1)
    coco_folder.add_object(third, (40, 30, 36, 28), category=9)
    return coco_folder.write()


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory) -> Path:
    """A few demo images, drawn once."""
    from piip.data.demo.make import Recipe, make_demo

    folder = tmp_path_factory.mktemp("training") / "demo"
    make_demo(folder, Recipe(train=6, val=3, sides=(96, 128), objects=(24, 76)))
    return folder


@pytest.fixture
def sources(demo_folder, piip_home):
    """The demo data where a trial looks for it; a test may damage its copy."""
    from piip import home
    from piip.data.locating import locate
    from piip.spec import CocoSpec

    shutil.copytree(demo_folder, home.data_root() / "demo")
    return {split: locate(CocoSpec(name="demo"), split) for split in ("train", "val")}


@pytest.fixture(scope="session")
def process_group():
    """What Ray Train makes for a trial of one worker."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
            patch.setenv(name, value)
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        yield
        dist.destroy_process_group()
