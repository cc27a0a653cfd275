"""A training that waits for a test's word, on a host of another name: Python imports this first where the folder is on its path.

`gate` under PIIP_HOME holds the last step that may be recorded; without that file nothing waits. $HOST is the host's name.
"""

import os
import socket
import time
from pathlib import Path

from piip.record.journal import Journal

GATE = Path(os.environ["PIIP_HOME"]) / "gate"
record = Journal.log


def record_when_let(self, step, metrics):
    while GATE.exists() and step > int(GATE.read_text() or 0):
        time.sleep(0.02)
    record(self, step, metrics)


Journal.log = record_when_let
if host := os.environ.get("HOST"):
    socket.gethostname = lambda: host
