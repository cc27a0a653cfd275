"""Pico branches: the weights in the package, every combination that is swept, and the script that makes the weights."""

import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from piip.models import build_backbone
from piip.models.branches import pico
from piip.models.branches.build import build_branch
from piip.presets import PICO
from piip.presets import pico as pico_spec

SWEPT = [
    ("TB", (256, 128)), ("TB", (256, 192)), ("TB", (320, 160)), ("TB", (192, 128)), ("TS", (256, 192)), ("TS", (320, 160)),
    ("SB", (256, 192)), ("TSB", (256, 192, 128)), ("TSB", (320, 192, 128)), ("B", (256,)),
]  # fmt: skip
SCRIPT = Path(__file__).parents[2] / "experiments" / "pretrain_pico.py"


@pytest.mark.parametrize("letter", PICO)
def test_the_package_has_weights_of_every_branch(letter):
    branch = build_branch(PICO[letter])

    shipped = load_file(pico.weights_file(PICO[letter].arch))

    torch.testing.assert_close(
        branch.state_dict()["blocks.0.mlp.fc1.weight"], shipped["blocks.0.mlp.fc1.weight"].float()
    )
    assert torch.isfinite(branch(torch.rand(1, 3, 64, 64))).all()


def test_the_weights_are_a_few_megabytes():
    assert sum(file.stat().st_size for file in pico.WEIGHTS.glob("*.safetensors")) < 5e6


def test_branches_grow_from_tiny_to_base():
    widths = [pico.GEOMETRY[arch][0] for arch in ("pico_tiny", "pico_small", "pico_base")]

    assert widths == sorted(widths)


@pytest.mark.parametrize(("letters", "resolutions"), SWEPT)
def test_every_swept_combination_gives_four_maps(letters, resolutions):
    # a landscape image, its short side padded to a multiple of 32 as in the demo
    height, width = resolutions[0] * 3 // 4 // 32 * 32, resolutions[0]
    backbone = build_backbone(pico_spec(letters, resolutions))

    with torch.no_grad():
        features = backbone(torch.rand(1, 3, height, width))

    assert [tuple(f.shape[-2:]) for f in features] == [(height // s, width // s) for s in (4, 8, 16, 32)]


def test_the_pretraining_script_writes_the_same_weights_twice(tmp_path, monkeypatch):
    for folder in ("once", "again"):
        script = runpy.run_path(str(SCRIPT))
        small = "--archs pico_tiny --steps 2 --images 4 --batch-size 2 --out"
        script["main"]([*small.split(), str(tmp_path / folder)])

    once, again = (tmp_path / folder / "pico_tiny.glyphs.safetensors" for folder in ("once", "again"))
    assert once.read_bytes() == again.read_bytes()
    monkeypatch.setattr(pico, "WEIGHTS", tmp_path / "once")
    build_branch(PICO["T"])  # strict: raises when a name is missing or left over
