"""Costs are counted once."""

import pytest
from tiny import ROWS

from piip import home
from piip.catalogue import counted as counting
from piip.catalogue.counted import counted
from piip.counting import cost as real
from piip.counting.costs import Cost

MODEL = ROWS["pico"][0].model
COST = Cost(1.5, 2.5, {"branches.0": (1.0, 2.0), "neck": (0.5, 0.5)}, frozenset({"neck"}))


@pytest.fixture
def counts(monkeypatch):
    """What was counted: (height, width)."""
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr(real, "cost", lambda _, *size: sizes.append(size) or COST)
    return sizes


def test_a_network_is_counted_once_for_a_size(counts):
    assert [counted(MODEL, 64, 96) for _ in range(3)] == [COST] * 3
    assert counted(MODEL, 96, 96) == COST

    assert counts == [(64, 96), (96, 96)]


def test_another_network_or_other_code_is_counted_anew(counts, monkeypatch):
    counted(MODEL, 64, 96)
    counted(MODEL.override({"head.num_classes": 7}), 64, 96)
    monkeypatch.setattr(counting, "_code", lambda: "another")
    counted(MODEL, 64, 96)

    assert len(counts) == 3


def test_what_a_power_cut_left_is_counted_anew(counts):
    counted(MODEL, 64, 96)
    (file,) = (home.home() / "costs").iterdir()
    file.write_bytes(file.read_bytes()[:20])

    assert [counted(MODEL, 64, 96), counted(MODEL, 64, 96)] == [COST, COST]
    assert len(counts) == 2


def test_where_nothing_can_be_kept_it_is_counted_every_time(counts):
    (home.home() / "costs").touch()

    assert [counted(MODEL, 64, 96), counted(MODEL, 64, 96)] == [COST, COST]
    assert len(counts) == 2
