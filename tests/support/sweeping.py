"""Sweeps as a person runs them, in a process of their own, and what they leave behind."""

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Self

import psutil
from waiting import LONG, wait_for

from piip.durable import write_atomic
from piip.record.events import read_metrics, read_status
from piip.record.runs import read_record

ROOT = Path(__file__).parents[2]
GATE = Path(__file__).with_name("gate")
"""Where Python finds what lets a training wait for `hold`."""
UNEQUAL = ("time/", "train/images_per_second", "cost/peak_memory_gb")
"""Metrics that are measurements of the machine, not of the network."""


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without anybody's cluster or server."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "PIIP_"))}
    return inherited | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


class SweepCommand:
    """`python tiny.py ...` over the given data, started at once; as a context manager nothing of it is left behind."""

    def __init__(self, home: Path, data: Path, *flags: str, script: str = "tiny.py", **environment: str) -> None:
        self.home, self.flags = home, [*data_flags(data), *flags]
        number = len(list(home.glob("stdout*")))
        self._out, self._err = home / f"stdout{number}.txt", home / f"stderr{number}.txt"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name(script)), *self.flags, "--json"], cwd=home, stdout=out, stderr=err,
                env=clean_environment(PIIP_HOME=str(home), PYTHONPATH=f"{ROOT}{os.pathsep}{GATE}", **environment), start_new_session=True,
            )  # fmt: skip
        self.children: set[psutil.Process] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.find("")
        for child in [self.process, *self.children]:
            try:
                child.kill()
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        self.process.wait()
        psutil.wait_procs(self.children, timeout=LONG)

    def find(self, title: str, trial: str = "") -> list[psutil.Process]:
        """The command's live descendants whose command line holds `title`, in a working folder named by the trial's key."""
        found = []
        try:
            self.children |= set(psutil.Process(self.process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []
        for child in self.children:
            try:
                if child.is_running() and title in " ".join(child.cmdline()) and trial in child.cwd():
                    found.append(child)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def finish(self) -> dict[str, Any]:
        """Waits for success; the JSON document it printed."""
        code = self.process.wait(LONG)
        assert code == 0, self.stderr
        return self.document

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        return json.loads(self._out.read_text())

    @property
    def stderr(self) -> str:
        """What a person sees."""
        return self._err.read_text()

    def until_step(self, name: str, step: int) -> Path:
        """Waits until a trial has logged `step`; its journal."""

        def reached() -> bool:
            assert self.process.poll() is None, self.stderr
            return name in journals(self.home) and last_step(journals(self.home)[name]) >= step

        wait_for(reached)
        return journals(self.home)[name]


def data_flags(data: Path) -> list[str]:
    """The command line's four paths of a data set of one's own, and what it is called."""
    return ["--set=data.name=squares"] + [
        flag
        for split in ("train", "val")
        for flag in (
            f"--{split}-annotations={data / 'annotations' / f'instances_{split}.json'}",
            f"--{split}-images={data / split}",
        )
    ]


def hold(home: Path, step: int) -> None:
    """Lets the trainings of a home record this step, and wait before the next one."""
    write_atomic(home / "gate", str(step))


def let_go(home: Path) -> None:
    """Lets them train on."""
    (home / "gate").unlink()


def journals(home: Path) -> dict[str, Path]:
    """Row name -> the folder of its journal; the sweep's own under `sweep`."""
    records = {path.parent: read_record(path.parent) for path in (home / "journals").glob("*/run.json")}
    return {"sweep" if r.parent_key is None else r.name: folder for folder, r in records.items()}


def last_step(journal: Path) -> int:
    losses = read_metrics(journal).get("train/loss", [])
    return losses[-1][0] if losses and read_status(journal) == "RUNNING" else 0


def worker_pid(journal: Path) -> int:
    """The process that writes a trial's journal: the rank 0 worker, named at the end of its attempt; 0: another does."""
    time_ns, _, pid = json.loads((journal / "attempt").read_text())["attempt"].rpartition("-")
    return int(pid) if time_ns.isdigit() else 0


def outcome(home: Path, name: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What must not depend on kills: every metric's history (but times), and the last checkpoint's tensors."""
    journal = journals(home)[name]
    metrics = {
        key: [(step, value) for step, value, _ in history]
        for key, history in read_metrics(journal).items()
        if not key.startswith(UNEQUAL)
    }
    last = max((home / "storage" / journal.name).glob("step_*"))
    return metrics, {file.name: file.read_bytes() for file in last.glob("*.safetensors")}


def tracked(database: Path) -> Counter[tuple[str, str, int]]:
    """How often MLflow's own table has each (run name, metric, step)."""
    query = "select r.name, m.key, m.step from metrics m join runs r on r.run_uuid = m.run_uuid"
    with sqlite3.connect(database) as connection:
        return Counter(connection.execute(query).fetchall())


def journaled(home: Path) -> Counter[tuple[str, str, int]]:
    """The same as the journals have it, each once."""
    return Counter(
        {
            (read_record(folder).name, key, step): 1
            for folder in journals(home).values()
            for key, history in read_metrics(folder).items()
            for step, _, _ in history
        }
    )
