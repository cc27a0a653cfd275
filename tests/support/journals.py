"""Journals for tests, and their lines as they lie on disk."""

import json
from pathlib import Path

from piip.record.runs import RunRecord, create_run


def begin(key="trial", **changes) -> Path:
    fields = {"trial_key": key, "name": f"name of {key}", "experiment": "tests", "parent_key": None, "created_ms": 1000}
    return create_run(RunRecord(**{**fields, **changes}))


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def metric_lines(folder: Path) -> list[dict]:
    return [event for event in lines(folder) if event["kind"] == "metric"]
