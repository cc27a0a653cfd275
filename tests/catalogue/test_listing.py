"""A row's line in the list."""

from dataclasses import asdict

import pytest
from kinds import DATA

from piip.catalogue.listing import result
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
