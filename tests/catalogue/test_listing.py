"""A row's line in the list."""

import io
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from kinds import DATA
from rich.console import Console
from tiny import ROWS

from piip.catalogue import listing
from piip.catalogue.listing import counting, explained, list_rows, result
from piip.catalogue.rows import all_rows
from piip.counting.costs import Cost
from piip.spec import Ade20kSpec, CocoSpec, ImageNetSpec, PaperResult


@pytest.mark.parametrize(
    ("data", "paper", "printed"),
    [
        (CocoSpec, PaperResult(box_ap=43.6, mask_ap=38), "43.6 / 38.0 AP"),
        (CocoSpec, PaperResult(box_ap=57.8), "57.8 box AP"),
        (Ade20kSpec, PaperResult(miou=58.42), "58.42 mIoU"),
        (ImageNetSpec, PaperResult(top1=85.9), "85.9 top-1"),
        (ImageNetSpec, PaperResult(box_ap=43.6), "-"),
    ],
)
def test_the_papers_figures_are_those_of_the_scores(data, paper, printed):
    assert result(paper.model_dump(), [asdict(score) for score in data.scores]) == printed


@pytest.mark.parametrize("data", DATA, ids=lambda data: data.kind)
def test_no_figures_are_a_dash(data):
    assert result({}, [asdict(score) for score in data.scores]) == "-"


@pytest.mark.parametrize(
    ("terminal", "quiet", "said"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_a_terminal_sees_which_row_is_counted(monkeypatch, terminal, quiet, said):
    screen = io.StringIO()
    monkeypatch.setattr(listing, "Console", lambda **_: Console(file=screen, force_terminal=terminal, width=80))
    rows = [SimpleNamespace(name=name) for name in ("one", "two")]

    assert list(counting(rows, quiet=quiet)) == rows

    shown = screen.getvalue()
    assert bool(shown) == said
    assert ("1/2" in shown) == ("counting two" in shown) == ("rows/s" in shown) == said


@pytest.mark.parametrize("markdown", [False, True])
def test_a_row_is_printed_before_the_next_one_is_counted(capsys, monkeypatch, markdown):
    first, second = ROWS["pico"]

    def count(spec, size):
        if spec is second:
            raise KeyboardInterrupt
        return Cost(123.456, 7.0, {})

    monkeypatch.setattr(listing, "cost_of", count)
    with pytest.raises(KeyboardInterrupt):
        list_rows([first, second], as_json=False, markdown=markdown)

    *_, last = capsys.readouterr().out.splitlines()
    assert first.name in last
    assert "123.5" in last


def test_the_columns_of_a_table_stand_below_each_other(capsys, monkeypatch):
    monkeypatch.setattr(listing, "cost_of", lambda *_: Cost(123456.7, 0.123, {}))

    list_rows([row for row in all_rows().values() if row.paper], as_json=False)

    head, line, *rows = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert len(rows) > 40
    assert {len(text) for text in (head, line, *rows)} == {len(head)}


def test_every_part_of_every_rows_name_is_explained():
    rows = list(all_rows().values())
    known = {line.split()[0] for line in explained(rows)}

    for row in rows:
        assert row.model.head.kind in known
        assert row.model.backbone.row_name.split("_")[0] in known
