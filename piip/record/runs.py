"""Who a trial, or a sweep, is: written down once, before anything happens. See journal.py for the folder it lies in."""

import json
import posixpath
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from piip.durable import exclusive, write_atomic
from piip.home import journal_dir
from piip.record.events import EVENTS

# mlflow.utils.validation: letters, digits and _ - . space : / ; a path in normal form; 250 characters
_NAME = re.compile(r"[\w.\- :/]+", re.ASCII)
_NAME_LENGTH = 250


@dataclass(frozen=True)
class RunRecord:
    """Who a trial (or a sweep, the parent of trials) is; what an MLflow run is created from."""

    trial_key: str
    """Names the journal's folder: letters, digits and `_ - .`."""
    name: str
    """What people see in lists."""
    experiment: str
    parent_key: str | None
    """Trial key of the sweep this trial belongs to; None for a sweep and for a trial of its own."""
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    created_ms: int = field(default_factory=lambda: now_ms())
    """Together with the key it is the run's identity: a journal begun anew is a new run in MLflow."""

    def __post_init__(self) -> None:
        for key in (self.trial_key, self.parent_key):
            if key is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", key):
                raise ValueError(f"trial key {key!r} names a folder: use letters, digits and _ - . only")
        for kind, names in {"param": self.params, "tag": self.tags}.items():
            for name in names:
                check_name(kind, name)


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return time.time_ns() // 1_000_000


def check_name(kind: str, name: str) -> None:
    """Refuses a name here that MLflow would refuse hours later, when nobody looks.

    Raises:
        ValueError: `name` has a character MLflow does not take, is longer than 250, or is not a path in normal form.
    """
    if not _NAME.fullmatch(name):
        bad = sorted(set(_NAME.sub("", name)))
        raise ValueError(f"{kind} name {name!r}: {bad or 'empty'} not allowed; use letters, digits and _ - . space : /")
    if len(name) > _NAME_LENGTH:
        raise ValueError(f"{kind} name {name[:40]!r}... has {len(name)} characters, at most {_NAME_LENGTH} fit")
    if posixpath.normpath(name) != name or name.startswith(("/", "..")) or name == ".":
        raise ValueError(f"{kind} name {name!r} is not a plain path. Try {posixpath.normpath('/' + name).strip('/')!r}")


def create_run(record: RunRecord) -> Path:
    """Writes down that a run exists, once; a record of the same key that is already there is kept.

    Returns:
        The journal's folder, for `Journal(folder, attempt)`.
    """
    folder = journal_dir(record.trial_key)
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / EVENTS):
        if not (folder / "run.json").exists():
            write_atomic(folder / "run.json", json.dumps(asdict(record), indent=1))
    return folder


def read_record(folder: Path) -> RunRecord:
    """The record `create_run` wrote."""
    path = Path(folder) / "run.json"
    if not path.exists():
        raise ValueError(f"{folder} is no journal: it has no run.json. Journals are begun by create_run(record)")
    return RunRecord(**json.loads(path.read_text()))
