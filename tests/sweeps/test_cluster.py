"""A Ray of our own that does not start."""

import pytest
import ray

from piip.sweeps import cluster


def refuse(message):
    def init(**_):
        raise Exception(message)

    return init


def test_a_machine_too_busy_for_ray_is_said(monkeypatch):
    monkeypatch.setattr(ray, "init", refuse("The current node timed out during startup. This could happen because"))

    with pytest.raises(
        ConnectionError, match=r"Ray did not start within its 30 s, at a load of \d+ on \d+ CPUs: the same command"
    ):
        cluster._start(1, {})


def test_what_else_ray_says_is_not_hidden(monkeypatch):
    monkeypatch.setattr(ray, "init", refuse("something else"))

    with pytest.raises(Exception, match=r"^something else$"):
        cluster._start(1, {})
