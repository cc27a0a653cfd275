"""The wheel: what it carries, and that what it carries works away from the checkout."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from piip import home
from piip.models.branches import pico

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]


def code(folder: str) -> set[str]:
    """The files of a folder that are somebody's work; neither Python's nor a compiler's."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so", ".o") and "drawn" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)  # no network: hatchling is a developer's package
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file)


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """The wheel, unpacked as pip does."""
    folder = tmp_path_factory.mktemp("site")
    wheel.extractall(folder)
    return folder


def test_it_carries_package_rows_and_kernels_sources_once_each(wheel):
    carried = [name for name in wheel.namelist() if not name.startswith(f"piip-{PROJECT['version']}.dist-info/")]

    assert sorted(carried) == sorted(code("piip") | {f"piip/{name}" for name in code("csrc") | code("experiments")})


@pytest.mark.parametrize(
    "name", ["piip/py.typed", "piip/csrc/deform_attn_cuda.cu", "piip/experiments/coco_mask_rcnn.py"]
)
def test_it_carries(wheel, name):
    assert name in wheel.namelist()


def test_it_carries_the_pretrained_pico_branches(wheel, site):
    weights = sorted(pico.WEIGHTS.glob("*.safetensors"))

    assert len(weights) == 3
    for file in weights:
        assert (site / file.relative_to(ROOT)).read_bytes() == file.read_bytes()


def test_its_licence_and_its_command_are_said(wheel):
    said = wheel.read(f"piip-{PROJECT['version']}.dist-info/METADATA").decode()

    assert "\nLicense-Expression: MIT\n" in said
    assert wheel.read(f"piip-{PROJECT['version']}.dist-info/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert b"[console_scripts]\npiip = piip.__main__:main" in wheel.read(
        f"piip-{PROJECT['version']}.dist-info/entry_points.txt"
    )


def away(site: Path, folder: Path, *line: str) -> str:
    """What Python prints in `folder`, with the unpacked wheel and without the checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIIP_")}
    done = subprocess.run(
        [sys.executable, *line], cwd=folder, env=environment | {"PYTHONPATH": str(site)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return done.stdout


def test_away_from_the_checkout_it_lists_the_same_rows(site, tmp_path):
    here = subprocess.run(
        [sys.executable, "-m", "piip", "rows", "--names"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert away(site, tmp_path, "-m", "piip", "rows", "--names") == here.stdout
    assert len(here.stdout.splitlines()) > 40


def test_away_from_the_checkout_the_script_it_names_is_there(site, tmp_path):
    listed = away(site, tmp_path, "-m", "piip")

    (script,) = re.findall(r"^python (\S+\.py) ", listed, re.MULTILINE)
    assert Path(script) == site / "piip" / "experiments" / "sweep_resolutions.py"
    assert Path(script).is_file()


def test_away_from_the_checkout_it_compiles_its_own_sources_and_writes_where_it_is_typed(site, tmp_path):
    program = "from piip import home; from piip.ops.compiled import cpu; print(cpu.sources(), home.home(), sep='\\n')"

    assert away(site, tmp_path, "-c", program).splitlines() == [str(site / "piip" / "csrc"), str(tmp_path / "runs")]
    assert home.in_checkout()  # and these tests run in one
