import json
import math
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from piip import cost as cost_verb
from piip import rows as rows_verb
from piip.catalogue.rows import all_rows, find_row, load_tables
from piip.counting.meta import on_meta
from piip.counting.published import published
from piip.models import build_backbone
from piip.spec import ExperimentSpec, PIIPSpec

FOLDER = Path(__file__).parents[2] / "experiments"
FILES = sorted(FOLDER.glob("*.py"))
TABLES = {file: load_tables(file) for file in FILES}
ROWS = [row for tables in TABLES.values() for table in tables.values() for row in table]


def networks(row: ExperimentSpec) -> tuple[str, ...]:
    """What a row builds, whatever its images' sizes."""
    return tuple(seen.arch for seen in row.model.backbone.networks)


ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_experiment_says_what_it_asks_and_how_it_is_run(file):
    text = file.read_text()

    assert text.startswith('"""')
    assert f"python experiments/{file.name}" in text.split('"""')[1]


def test_scales_are_those_of_the_command_line():
    assert {scale for tables in TABLES.values() for scale in tables} <= {"pico", "coco", "ade20k", "imagenet"}
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


def has_a_golden_manifest(row: ExperimentSpec) -> bool:
    """Built by tests/models/test_full_size.py; the ConvNeXt rows have no manifest."""
    return bool(row.paper and row.paper.config and "convnext" not in row.paper.config)


@pytest.mark.parametrize(
    "row", {networks(row): row for row in ROWS if not has_a_golden_manifest(row)}.values(), ids=lambda row: row.name
)
def test_a_rows_backbone_builds_without_memory(row):
    with on_meta():
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
    figures = row.paper.model_dump(exclude={"config", "note"}) if row.paper else {}
    for name, value in figures.items():
        assert value is None or (math.isfinite(value) and value > 1), (
            f"{name} {value}: AP in per cent, GFLOPs, millions"
        )


def test_the_readmes_figures_are_the_rows():
    readme = (FOLDER.parent / "README.md").read_text()
    lines = [line.strip("| ").split(" | ") for line in readme.splitlines() if line.startswith("| mask_rcnn_")]

    assert len(lines) == 6
    for name, *_, gflops, printed_gflops, params, printed_params, result in lines:
        row = find_row(name)
        count = published(row.model)
        assert (float(gflops), float(params)) == pytest.approx((count.flops / 1e9, count.params / 1e6), rel=5e-4)
        assert (float(printed_gflops), float(printed_params)) == (row.paper.gflops, row.paper.params_m)
        assert result == f"{row.paper.box_ap:.1f} / {row.paper.mask_ap:.1f} AP"


@pytest.mark.long
def test_the_readmes_table_is_printed_by_the_code(capsys):
    readme = (FOLDER.parent / "README.md").read_text()
    (command,) = re.findall(r"piip cost (--markdown .*)`", readme)

    cost_verb.cli(shlex.split(command))

    assert capsys.readouterr().out in readme


def test_every_released_configuration_is_a_row():
    # 25 of detection (TSBL's as released), 8 with ConvNeXt, 5 of segmentation, 3 of classification; 15 of InternImage
    configs = Counter(row.paper.config for row in all_rows().values() if row.paper and row.paper.config)

    assert len(configs) == 56
    assert max(configs.values()) == 1


def test_a_wrong_row_is_answered_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"no row 'mask_rcnn_piip_tsb_1120_896'\. Nearest: '.*tsb_1120_.*'\. All rows: python -m piip"
    ):
        find_row("mask_rcnn_piip_tsb_1120_896")


def test_a_row_is_found_by_its_official_configuration_too():
    config = "mask_rcnn_deit_tsb_1120_896_448_fpn_1x_coco_bs16"

    assert find_row(config).name == "mask_rcnn_piip_tsb_1120_896_448_1x"


def test_names_of_rows_come_at_once(capsys):
    assert rows_verb.cli(["--names"]) == 0

    assert capsys.readouterr().out.split() == list(all_rows())


@pytest.mark.parametrize(
    ("arguments", "picks"),
    [
        (["coco"], lambda row: row.data.name == "coco"),
        (["--task", "segmentation"], lambda row: row.data.task == "segmentation"),
        (["demo", "classification"], lambda row: row.data.name == "demo" and row.data.task == "classification"),
        (["_tsb_"], lambda row: "_tsb_" in row.name),
        (["mask_rcnn_piip_tsb_*_1x", "1568"], lambda row: row.name.startswith("mask_rcnn_piip_tsb_1568_") and row.data.name == "coco"),
    ],
)  # fmt: skip
def test_words_pick_rows(arguments, picks, capsys):
    wanted = [name for name, row in all_rows().items() if picks(row)]

    assert rows_verb.cli([*arguments, "--names"]) == 0

    assert capsys.readouterr().out.split() == wanted != []


@pytest.mark.parametrize(
    ("words", "said"),
    [(["lvis9"], "no row for 'lvis9'. A word is a part or"), (["upernet", "coco"], "no row for 'coco' among the 11 that upernet picks")],
)  # fmt: skip
def test_words_that_pick_nothing_are_told_what_there_is(words, said, capsys):
    assert rows_verb.cli(words) == 2

    error = capsys.readouterr().err
    assert said in error
    assert (
        "a data set (ade20k, aerial, coco, demo, imagenet) or a task (classification, detection, segmentation)" in error
    )
