import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from piip.models import build_backbone
from piip.spec import ExperimentSpec, PIIPSpec
from piip.sweeps.found import all_rows, find_row, load_tables

FOLDER = Path(__file__).parent.parent / "experiments"
FILES = sorted(FOLDER.glob("*.py"))
TABLES = {file: load_tables(file) for file in FILES}
ROWS = [row for tables in TABLES.values() for table in tables.values() for row in table]


def networks(row: ExperimentSpec) -> tuple[str, ...]:
    """What a row builds, whatever its images' sizes."""
    backbone = row.model.backbone
    return tuple(b.arch for b in backbone.branches) if isinstance(backbone, PIIPSpec) else (backbone.arch,)


ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_experiment_says_what_it_asks_and_how_it_is_run(file):
    text = file.read_text()

    assert text.startswith('"""')
    assert f"python experiments/{file.name}" in text.split('"""')[1]


def test_scales_are_those_of_the_command_line():
    assert {scale for tables in TABLES.values() for scale in tables} <= {"pico", "coco"}
    assert ROWS


def test_no_two_rows_of_a_file_share_a_name():
    for file, tables in TABLES.items():
        names = Counter(row.name for table in tables.values() for row in table)
        assert [name for name, count in names.items() if count > 1] == [], file


def test_no_two_different_rows_share_a_name():
    digests: dict[str, set[str]] = {}
    for row in ROWS:
        digests.setdefault(row.name, set()).add(row.digest)

    assert [name for name, found in digests.items() if len(found) > 1] == []
    assert set(all_rows()) == set(digests)


@ROW
def test_a_row_comes_back_from_json_as_it_was(row):
    assert ExperimentSpec.model_validate_json(row.model_dump_json()) == row
    assert row.override(row.flat()) == row
    assert json.loads(json.dumps(row.flat())) == row.flat()


@pytest.mark.parametrize("row", {networks(row): row for row in ROWS}.values(), ids=lambda row: row.name)
def test_a_rows_backbone_builds_without_memory(row):
    with torch.device("meta"):
        backbone = build_backbone(row.model.backbone, pretrained=False)

    assert all(p.is_meta for p in backbone.parameters())
    assert len(backbone.out_channels) == 4


@ROW
def test_a_row_is_the_size_its_name_says(row):
    backbone = row.model.backbone
    sides = [b.resolution for b in backbone.branches] if isinstance(backbone, PIIPSpec) else [backbone.resolution]

    assert "_".join(map(str, sides)) in row.name


@ROW
def test_what_the_paper_prints_is_in_its_units(row):
    for name, value in (row.paper.model_dump() if row.paper else {}).items():
        assert value is None or (math.isfinite(value) and value > 1), (
            f"{name} {value}: AP in per cent, GFLOPs, millions"
        )


def test_a_wrong_row_is_answered_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"no row 'mask_rcnn_piip_tsb_1120_896'\. Nearest: '.*tsb_1120_.*'\. All rows: python -m piip"
    ):
        find_row("mask_rcnn_piip_tsb_1120_896")
