"""Ctrl-C during a sweep: trials end in order, and it is known afterwards that nothing failed."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SAID = "interrupted: the trials end in order (again Ctrl-C: at once)"


@contextmanager
def watched() -> Iterator[threading.Event]:
    """Has the first Ctrl-C end what Ray Tune runs in here, and remembers it; a second one, or one before Tune runs, ends at once.

    Tune is told by SIGUSR1's handler, which it sets up while it runs and which ends it as its own handler of Ctrl-C would: that one
    (off by TUNE_DISABLE_SIGINT_HANDLER, see cluster.py) tells nobody, and stays in place when Tune is done.

    Yields:
        Set once somebody pressed Ctrl-C.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # where Python lets nobody listen
        yield interrupted
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}

    def end(_: int, frame: FrameType | None) -> None:
        tune = signal.getsignal(signal.SIGUSR1)
        if interrupted.is_set() or tune is before[signal.SIGUSR1] or not callable(tune):
            raise KeyboardInterrupt
        interrupted.set()
        print(SAID, file=sys.stderr, flush=True)
        tune(signal.SIGUSR1, frame)

    signal.signal(signal.SIGINT, end)
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
