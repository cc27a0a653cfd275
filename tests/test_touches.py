"""What a new backbone, head, data set, metric or score costs: toys of each are added to a copy of the package, by few places, and work."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from waiting import LONG

from piip.home import package_root

TOYS = Path(__file__).parent / "support" / "toys"


@dataclass(frozen=True)
class Toy:
    """What has to be written for a new part."""

    files: dict[str, str]
    """New file of the package -> toy."""
    edits: dict[str, list[tuple[str, str]]]
    """File that is there -> what is replaced by what."""

    @property
    def touches(self) -> int:
        return len(self.files) + len(self.edits)

    def add(self, root: Path) -> None:
        for file, toy in self.files.items():
            assert not (root / file).exists()
            shutil.copy(TOYS / toy, root / file)
        for file, changes in self.edits.items():
            text = (root / file).read_text()
            for old, new in changes:
                assert text.count(old) == 1, (file, old, text.count(old))
                text = text.replace(old, new)
            (root / file).write_text(text)


BACKBONE_SPEC = """class ToySpec(SingleSpec):
    kind: Literal["toy"] = "toy"
    width: int = 8


"""
HEAD_SPEC = """class BrightnessSpec(HeadSpec):
    kind: Literal["brightness"] = "brightness"
    num_classes: int = 1

    @property
    def wants(self) -> Wish:
        return Maps((32,))


"""
DATA_SPEC = """class ToyDataSpec(DataSpec):
    task: ClassVar[str] = "brightness"
    scores: ClassVar[tuple[Score, ...]] = (Score("toy/mae", "error", "min"),)
    places: ClassVar[dict[str, Places]] = {"demo": Places("demo/{split}", "demo/{split}")}
    kind: Literal["toy"] = "toy"
    name: str = "demo"
    broken_images: Literal["refuse", "skip"] = "refuse"

    def largest_input(self, resolution: int) -> tuple[int, int]:
        return resolution, resolution


"""
FIRST = "from piip.models.network"
"""An import that new ones are put before."""

BACKBONE = Toy(
    {"piip/models/backbones/toy.py": "backbone.py"},
    {
        "piip/spec/backbones.py": [
            ("Backbone = Annotated[PIIPSpec | CNNSpec |", BACKBONE_SPEC + "Backbone = Annotated[ToySpec | PIIPSpec | CNNSpec |"),
        ],
        "piip/models/__init__.py": [
            ("        case CNNSpec():\n", "        case ToySpec():\n            return Toy(spec, wish)\n        case CNNSpec():\n"),
            (FIRST, f"from piip.models.backbones.toy import Toy\nfrom piip.spec.backbones import ToySpec\n{FIRST}"),
        ],
    },
)  # fmt: skip
HEAD = Toy(
    {"piip/models/heads/brightness.py": "head.py"},
    {
        "piip/spec/heads.py": [("Head = Annotated[\n", HEAD_SPEC + "Head = Annotated[\n    BrightnessSpec |\n")],
        "piip/models/__init__.py": [
            (
                "        case UPerNetSpec():\n",
                "        case BrightnessSpec():\n            head = Brightness(backbone.out_channels, spec.head)\n"
                "        case UPerNetSpec():\n",
            ),
            (
                FIRST,
                f"from piip.models.heads.brightness import Brightness\nfrom piip.spec.heads import BrightnessSpec\n{FIRST}",
            ),
        ],
    },
)
DATA = Toy(
    {"piip/data/formats/toy.py": "data.py"},
    {
        "piip/spec/data.py": [("Data = Annotated[\n", DATA_SPEC + "Data = Annotated[\n    ToyDataSpec |\n")],
        "piip/data/__init__.py": [
            (
                "        case CocoSpec():\n",
                "        case ToyDataSpec():\n            from piip.data.formats import toy\n\n"
                "            return toy.ToyFormat, toy.ToyDataset\n        case CocoSpec():\n",
            ),
            ("from piip.data.sources", "from piip.spec.data import ToyDataSpec\nfrom piip.data.sources"),
        ],
    },
)
METRIC = Toy({"piip/metrics/error.py": "metric.py"}, {})
SCORE = Toy(
    {}, {"piip/spec/data.py": [('(Score("toy/mae", "error", "min"),)', '(Score("toy/mae", "error (0 to 1)", "min"),)')]}
)


def test_a_new_part_touches_three_places():
    assert [part.touches for part in (BACKBONE, HEAD, DATA, METRIC, SCORE)] == [3, 3, 3, 1, 1]


@pytest.mark.slow
def test_toys_of_every_part_plan_count_train_score_and_are_reported(tmp_path, piip_home):
    copy = tmp_path / "copy"
    shutil.copytree(package_root() / "piip", copy / "piip", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(package_root() / "csrc", copy / "piip" / "csrc")  # as in an installed package
    for part in (BACKBONE, HEAD, DATA, METRIC, SCORE):
        part.add(copy)

    environment = os.environ | {"PYTHONPATH": str(copy), "PIIP_HOME": str(piip_home)}
    command = [sys.executable, str(TOYS / "try_all.py")]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=LONG, check=False
    )

    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert set(said["names"]) == {"brightness_toy_0.01", "brightness_toy_1e06"}
    assert said["scores"][0] < said["scores"][1]  # the lower error first
    assert said["gflops"][0] > 0
    assert said["head"] == "Brightness"
    assert "error (0 to 1)" in said["report"]
    assert "box AP" not in said["report"]
