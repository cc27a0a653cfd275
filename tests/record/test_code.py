import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from piip import home
from piip.catalogue.rows import all_rows
from piip.record import code
from piip.record.code import code_digest, code_files
from piip.spec import ExperimentSpec

ROWS = all_rows()
DETECTOR = ROWS["mask_rcnn_piip_tsb_1120_896_448_1x"]
PEER = ROWS["mask_rcnn_convnext_base_1024_1x"]
PICO = ROWS["mask_rcnn_piip_tb_192_128_pico1200"]
SEGMENTER = next(row for row in ROWS.values() if row.model.head.kind == "upernet")
CLASSIFIER = next(row for row in ROWS.values() if row.model.head.kind == "classifier")


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A copy of ours, to be changed; what `code_digest` reads."""
    for folder in ("piip", "csrc"):
        shutil.copytree(home.package_root() / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(home, "package_root", lambda: tmp_path)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    """Files are read once a process."""
    for remembered in (code._digest, code._bytes, code._parsed):
        remembered.cache_clear()


def digest(spec: ExperimentSpec = DETECTOR) -> str:
    forget()
    return code_digest(spec)


def touch(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as text:
        text.write(b"\n# another line\n")


@pytest.mark.parametrize(
    "file",
    [
        "piip/models/heads/rcnn.py", "piip/models/backbones/piip.py", "piip/training/loop.py", "piip/metrics/coco.py",
        "piip/data/formats/coco.py", "csrc/deform_attn_cuda.cu", "csrc/deform_attn_kernel.cpp", "csrc/points.h", "csrc/new/x.h",
    ],
)  # fmt: skip
def test_code_that_makes_a_rows_numbers_changes_its_digest(checkout, file):
    before = digest()
    touch(checkout / file)
    assert digest() != before


@pytest.mark.parametrize(
    "file",
    [
        "piip/models/heads/classifier.py", "piip/models/backbones/cnn.py", "piip/reports/table.py", "piip/record/journal.py",
        "piip/tracking/writer.py", "piip/sweeps/progress.py", "piip/sync.py", "piip/spec/heads.py", "piip/data/drawing.py",
        "piip/models/branches/weights/pico_tiny.glyphs.safetensors", "csrc/README.md", "piip/models/heads/upernet.py",
    ],
)  # fmt: skip
def test_code_that_does_not_leaves_it(checkout, file):
    before = digest()
    touch(checkout / file)
    assert digest() == before


def test_a_new_head_leaves_the_rows_of_the_others(checkout):
    before = digest()
    models = checkout / "piip" / "models" / "__init__.py"
    text = models.read_text()
    with_import = text.replace(
        "from piip.models.network", "from piip.models.heads.toy import Toy\nfrom piip.models.network"
    )
    last = "        case _:\n            assert_never(spec.head)"
    new = with_import.replace(last, f"        case ToySpec():\n            head = Toy(spec.head)\n{last}")
    assert new.count("Toy") == 3
    models.write_text(new)
    touch(checkout / "piip" / "models" / "heads" / "toy.py")

    assert digest() == before
    models.write_text(new.replace("Network(backbone, head,", "Network(backbone, head.double(),"))
    assert digest() != before


def test_a_file_in_another_folder_is_another_file(checkout):
    before = digest()
    (checkout / "csrc" / "cpu").mkdir()
    shutil.move(checkout / "csrc" / "points.h", checkout / "csrc" / "cpu" / "points.h")
    moved = digest()
    touch(checkout / "csrc" / "cuda" / "points.h")

    assert len({before, moved, digest()}) == 3


def test_the_order_of_the_file_system_does_not_matter(checkout, monkeypatch):
    before, listed = digest(), Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda folder, pattern: reversed(list(listed(folder, pattern))))
    assert digest() == before


def test_pretraining_of_ours_counts_where_it_is_read(checkout):
    rows = {"pico": PICO, "scratch": PICO.override({"model.backbone.branches.0.pretrained": False})}
    before = {name: digest(row) for name, row in rows.items()}
    touch(checkout / "piip/models/branches/weights" / f"{PICO.model.backbone.branches[0].arch}.safetensors")
    after = {name: digest(row) for name, row in rows.items()}

    assert after["pico"] != before["pico"]
    assert after["scratch"] == before["scratch"]


def test_each_task_has_its_own_code():
    def has(row: ExperimentSpec, *names: str) -> list[bool]:
        return [f"piip/{name}.py" in code_files(row) for name in names]

    tasks = (
        "models/heads/rcnn",
        "models/heads/classifier",
        "data/formats/coco",
        "models/backbones/piip",
        "ops/compiled/cuda",
    )
    assert has(DETECTOR, *tasks) == [True, False, True, True, True]
    assert has(CLASSIFIER, *tasks) == [False, True, False, True, True]
    assert has(SEGMENTER, *tasks)[:3] == [False, False, False]
    assert has(PEER, *tasks)[:4] == [True, False, True, False]


def test_what_python_loads_for_training_is_found_or_known_to_decide_nothing():
    program = (
        "import sys; from piip.training import run; from piip.data.formats import coco;"
        "print(*(name for name in sys.modules if name.startswith(('piip.training', 'piip.data', 'piip.metrics'))))"
    )
    path = {"PYTHONPATH": str(home.package_root())}
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ | path
    ).stdout.split()
    found = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in code_files(DETECTOR)}

    assert len(loaded) > 15
    assert [name for name in loaded if name not in found and not code._is_silent(name)] == []


def test_many_rows_read_no_file_twice(monkeypatch):
    forget()
    read: list[Path] = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda file: read.append(file) or real(file))
    for number in range(200):
        code_digest(DETECTOR.override({"train.seed": number}))

    assert len(read) == len(set(read)) == len(code_files(DETECTOR))
