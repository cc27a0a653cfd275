"""A row's line in the list."""

import io
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from kinds import DATA
from rich.console import Console

from piip.catalogue import listing
from piip.catalogue.listing import counting, result
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
