"""Seconds and memory over all attempts, on a clock that is set by hand."""

import pytest

from piip.training import accounting, machine
from piip.training.accounting import Accounts


@pytest.fixture
def clock(monkeypatch):
    """Seconds; a test moves them."""
    now = [100.0]
    monkeypatch.setattr(accounting.time, "time", lambda: now[0])
    monkeypatch.setattr(machine, "peak_memory_gb", lambda: 2.0)
    return now


def test_an_attempt_counts_from_where_the_one_before_was(clock):
    accounts = Accounts()
    accounts.count_on(
        {"time/train_seconds": 40.0, "time/eval_seconds": 5.0, "time/worker_seconds": 60.0, "cost/peak_memory_gb": 1.5}
    )
    clock[0] += 30
    accounts.training.seconds += 20

    assert accounts.spent() == {
        "time/train_seconds": 60.0, "time/eval_seconds": 5.0, "time/worker_seconds": 90.0, "cost/peak_memory_gb": 2.0,
    }  # fmt: skip
    assert accounts.mean_speed(120) == {"train/images_per_second_mean": 2.0}


def test_memory_is_the_most_of_any_attempt(clock):
    accounts = Accounts()
    accounts.count_on({"cost/peak_memory_gb": 3.0})

    assert accounts.spent()["cost/peak_memory_gb"] == 3.0


def test_a_first_attempt_begins_at_nothing(clock):
    assert Accounts().spent() == {
        "time/train_seconds": 0.0, "time/eval_seconds": 0.0, "time/worker_seconds": 0.0, "cost/peak_memory_gb": 2.0,
    }  # fmt: skip
