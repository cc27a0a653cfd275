"""Everything that waits for a GPU, in one go, cheapest and most telling first; no failure stops the rest.

    python experiments/benchmarks/gpu_all.py FOLDER                         # about 25 minutes on one H100 and 16 cores
    python experiments/benchmarks/gpu_all.py FOLDER --minutes 9 --only build kernels ops_tests limits
    python experiments/benchmarks/gpu_all.py --list                         # the steps, their commands and what they should take

FOLDER gets, after every step, results.json (each benchmark's JSON by step), results.md (the same as tables, and how each step ended)
and log.txt (all output). Another call adds to them, so a machine that is lent for ten minutes at a time is asked with `--only`.

`build`, `kernels`, `ops_tests`, `limits` and `kernels_*` take PyTorch (2.10 or newer, with Triton), tyro, pytest, pytest-xdist, a C++
compiler and nvcc 12 or newer; the rest torchvision, timm and pydantic, too: where there is no network take their wheels along. Without
nvcc `build` fails, networks run on Triton, and the kernels' figures are missing. Expected minutes are guesses: no GPU has run it yet.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import timing
import tyro

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FEWEST_SECONDS = 30  # not worth starting a step for


@dataclass(frozen=True)
class Step:
    """A command from the checkout's root; `script` of this folder prints JSON."""

    minutes: float
    """Expected; it may take two and a half times as long."""
    arguments: tuple[str, ...] = ()
    script: str = ""

    def command(self) -> list[str]:
        """What is run."""
        if self.script:
            return [sys.executable, str(HERE / self.script), *self.arguments, "--json"]
        return list(self.arguments)


def _tests(path: str) -> Step:
    """Triton and torch.compile take most of the time: eight processes."""
    options = ("-o", "addopts=", "-p", "no:cacheprovider", "-q", "-m", "gpu", "--tb=short", "-n", "8")
    return Step(3, (sys.executable, "-m", "pytest", *options, path))


_ALL_BUT_COMPILED = (
    "cuda",
    "cuda, two launches",
    "cuda, two streams",
    "cuda, deterministic",
    "cuda, apart",
    "cuda, planes",
    "triton",
    "classic",
    "plain",
)
_LIMITS = """for method in 'cuda' 'cuda, planes'; do ncu -k 'regex:(forward|backward|planes)(_pair)?_kernel' --clock-control none \
--section SpeedOfLight --section Occupancy --metrics sm__inst_issued.avg.pct_of_peak_sustained_elapsed,\
l1tex__throughput.avg.pct_of_peak_sustained_elapsed,lts__throughput.avg.pct_of_peak_sustained_elapsed \
"$0" experiments/benchmarks/gpu_kernels.py --once "$method" --only 'TSB interaction'; done"""
STEPS: dict[str, Step] = {
    "build": Step(1, (sys.executable, "-m", "piip.ops.build", "--cuda")),
    "kernels": Step(1, ("--only", "TSB interaction", "--methods", *_ALL_BUT_COMPILED), "gpu_kernels.py"),
    "ops_tests": _tests("tests/ops"),
    "limits": Step(1, ("bash", "-c", _LIMITS, sys.executable)),
    "train_step": Step(2, ("--brief", "--minutes", "2", "--only", "detection TSB 1568"), "train_step.py"),
    "unit": Step(1, ("--rounds", "7"), "unit.py"),
    "train_step_sbl": Step(3, ("--brief", "--minutes", "3", "--only", "detection SBL 1568"), "train_step.py"),
    "backbone": Step(1, ("--only", "TSB"), "backbone.py"),
    "backbone_sbl": Step(2, ("--only", "SBL"), "backbone.py"),
    "kernels_sbl": Step(1, ("--only", "SBL interaction", "--methods", *_ALL_BUT_COMPILED), "gpu_kernels.py"),
    "models_tests": _tests("tests/models/test_speed_gpu.py"),
    "kernels_fp32": Step(1, ("--only", "TSB interaction", "--storage", "fp32", "--methods", *_ALL_BUT_COMPILED), "gpu_kernels.py"),
    "kernels_compiled": Step(1, ("--only", "TSB interaction", "--methods", "cuda", "plain", "compiled"), "gpu_kernels.py"),
    "train_step_switches": Step(5, ("--rounds", "3", "--minutes", "6", "--only", "detection TSB 1568"), "train_step.py"),
}  # fmt: skip


def run(step: Step, seconds: float, log: Path) -> tuple[str, object]:
    """How a step ended, and the JSON that it printed (None where there is none). Its output is added to the log."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    printed = log.with_name("stdout.tmp")
    start = time.monotonic()
    with log.open("a") as errors, printed.open("w") as output:
        process = subprocess.Popen(
            step.command(), cwd=ROOT, env=environment, stdout=output, stderr=errors, start_new_session=True
        )
        try:
            ended = f"exit {process.wait(seconds)}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and what it has started
            process.wait()
            ended = "stopped"
    text = printed.read_text()
    printed.unlink()
    with log.open("a") as file:
        file.write(text)
    ended += f" after {time.monotonic() - start:.0f} s"
    if not step.script:
        return f"{ended}: {(text.strip().splitlines() or ['no output'])[-1]}", None
    try:
        return ended, json.loads(text)
    except json.JSONDecodeError:  # stopped or failed before it reported; the log says why
        return f"{ended}, no result", None


def write_tables(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Every step's end, and its tables."""
    with path.open("w") as file:
        for name, result in results.items():
            file.write(f"## {name}\n\n{result['ended']}\n\n")
            if document := result["document"]:
                file.write(timing.as_markdown(document) + "\n\n")


@dataclass
class Options:
    """What this script is told."""

    folder: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[FOLDER]")] = None
    """Gets results.json, results.md and log.txt."""
    only: tuple[str, ...] = ()
    """Steps to run; not given: all (see --list)."""
    minutes: float = 29.0
    """For all of it."""
    list: bool = False
    """Say what would be run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the steps; 1 where one did not end well."""
    given = timing.given(Options, __doc__, arguments)
    timing.known(given.only, STEPS, "step")
    steps = given.only or tuple(STEPS)
    if given.list:
        for name in steps:
            print(f"{name:18} about {STEPS[name].minutes:g} min  {shlex.join(STEPS[name].command())}")
        return 0
    if given.folder is None:
        raise SystemExit("a FOLDER is needed for what is found (--list needs none)")
    given.folder.mkdir(parents=True, exist_ok=True)
    saved, log = given.folder / "results.json", given.folder / "log.txt"
    results = json.loads(saved.read_text()) if saved.exists() else {}
    deadline, good = time.monotonic() + 60 * given.minutes, True
    for name in steps:
        left = deadline - time.monotonic()
        if left < FEWEST_SECONDS:
            print(f"{name}: not started, no time left", flush=True)
            good = False
            continue
        with log.open("a") as file:
            file.write(f"\n===== {name}\n")
        ended, document = run(STEPS[name], min(left, 150 * STEPS[name].minutes), log)
        good &= ended.startswith("exit 0") and not ended.endswith("no result")
        results[name] = {"ended": ended, "document": document}
        saved.write_text(json.dumps(results, indent=1))
        write_tables(results, given.folder / "results.md")
        print(f"{name}: {ended}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    if shutil.which("nvidia-smi") is None and "--list" not in sys.argv:
        sys.exit("no nvidia-smi, so no GPU here: everything in this script needs one (--list does not).")
    sys.exit(main())
