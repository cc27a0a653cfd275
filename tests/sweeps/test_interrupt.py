"""Ctrl-C during a sweep."""

import logging
import os
import signal

import pytest
from ray.tune import tune

from piip.sweeps import cluster
from piip.sweeps.interrupt import SAID, watched


@pytest.fixture(autouse=True)
def handlers_of_before():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


def test_the_first_one_ends_tune_in_order_and_the_second_one_at_once(monkeypatch, capsys):
    monkeypatch.setenv("TUNE_DISABLE_SIGINT_HANDLER", cluster.PROCESS_ENV["TUNE_DISABLE_SIGINT_HANDLER"])

    with watched() as interrupted:
        told = tune._setup_signal_catching()  # as Tune does when it begins
        assert not interrupted.is_set()

        signal.raise_signal(signal.SIGINT)
        assert told.is_set()
        assert interrupted.is_set()
        assert capsys.readouterr().err == f"{SAID}\n"

        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_one_before_tune_runs_ends_at_once():
    with watched() as interrupted, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)

    assert not interrupted.is_set()


@pytest.mark.parametrize(("message", "kept"), [("Trials did not complete: [a]", False), ("disk is full", True)])
def test_only_what_tune_says_of_interrupts_is_left_out(message, kept):
    record = logging.LogRecord("ray.tune.tune", logging.WARNING, "", 0, message, (), None)

    assert cluster._is_no_interrupt(record) == kept


def test_tune_warns_of_slow_steps_that_cost_something():
    assert float(os.environ["TUNE_WARN_THRESHOLD_S"]) >= 10
