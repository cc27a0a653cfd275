"""How tests wait: for something that happens, never for so many seconds."""

import time
from collections.abc import Callable

LONG = 3600
"""Seconds: only what hangs takes that long, however busy the machine is."""


def wait_for(condition: Callable[[], object]) -> None:
    """Waits until it holds."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
