"""What happened in a trial, read from its journal: the events one by one, or what they add up to. See journal.py, which writes them."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

logger = logging.getLogger(__name__)

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED", "STOPPED"]
Event = dict[str, Any]

EVENTS = "events.jsonl"
ARTIFACTS = "artifacts"
DOING = "doing"


def read_events(folder: Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """Events from byte `offset` on, each with the byte after it; a line that is still being written is left out."""
    with (Path(folder) / EVENTS).open("rb") as lines:
        lines.seek(offset)
        for line in lines:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                event = json.loads(line)
            except ValueError:
                logger.warning("%s: skipped a damaged line of %d bytes before byte %d", lines.name, len(line), offset)
                continue
            yield event, offset


def read_status(folder: Path) -> Status | Literal["PENDING"]:
    """The trial's last status; PENDING before its first attempt."""
    return _read(folder).status


def read_metrics(folder: Path) -> dict[str, list[tuple[int, float, int]]]:
    """Each metric's (step, value, timestamp in ms), in the order they were recorded."""
    return {
        name: [(step, value, ms) for step, (value, ms) in steps.items()]
        for name, steps in _read(folder).metrics.items()
    }


def read_tags(folder: Path) -> dict[str, str]:
    """Each tag's last value; those the run was created with are in its record."""
    return dict(_read(folder).tags)


def read_doing(folder: Path) -> str:
    """What the trial said last that it is at; empty where it never said anything."""
    path = Path(folder) / DOING
    return path.read_text() if path.exists() else ""


class Seen:
    """What a journal's events add up to; of two records of one (metric, step) the first counts."""

    def __init__(self) -> None:
        self.metrics: dict[str, dict[int, tuple[float, int]]] = {}
        self.tags: dict[str, str] = {}
        self.artifacts: dict[str, str] = {}
        self.status: Status | Literal["PENDING"] = "PENDING"

    def add(self, event: Event) -> None:
        """Take in the next one."""
        match event["kind"]:
            case "metric":
                for name, value in event["values"].items():
                    self.metrics.setdefault(name, {}).setdefault(event["step"], (float(value), event["ms"]))
            case "tag":
                self.tags |= event["tags"]
            case "artifact":
                self.artifacts[event["name"]] = event["sha256"]
            case "status":
                self.status = event["status"]


def _read(folder: Path) -> Seen:
    seen = Seen()
    for event, _ in read_events(folder):
        seen.add(event)
    return seen
