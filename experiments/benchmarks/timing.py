"""What every benchmark here shares: a clock that other jobs cannot fool, methods that take turns, one header, one table or JSON.

Figures are ratios between methods timed in the same run: on a shared machine seconds drift, ratios hold.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import exp, log
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from piip.console import parse

Row = dict[str, object]
Given = TypeVar("Given")


def device() -> torch.device:
    """Where networks are timed: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def interleaved(
    methods: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 15,
    seconds: float = 0.01,
    where: torch.device | None = None,
    wall: bool = False,
    minutes: float = float("inf"),
) -> dict[str, float]:
    """Seconds that one call of each method takes, on PyTorch's present number of threads.

    One thread: the median of the process's CPU time, which does not grow when others want the core. More: the lower quartile of
    wall time, because CPU time would hide threads that wait. Methods take turns, so that a slow spell hits all of them.

    Args:
        methods: Name -> a call without arguments.
        rounds: Turns of each method, after one or two to warm up.
        seconds: Short methods are called several times a turn, until the turn takes this long. 0: once a turn, and without warming
            up, where methods are long and have run already.
        where: A GPU: wall time between two moments in which it has nothing left to do, launches included, and its median.
        wall: Wall time although PyTorch has one thread: the method has threads or processes of its own.
        minutes: No further round begins that would, as the one before it, end after so much wall time; one is made anyway.
    """
    began = time.perf_counter()
    on_gpu = where is not None and where.type == "cuda"
    one_thread = torch.get_num_threads() == 1 and not wall and not on_gpu
    clock = _when_idle if on_gpu else time.process_time if one_thread else time.perf_counter
    calls = {name: _calls_per_turn(method, seconds) if seconds else 1 for name, method in methods.items()}
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        round_began = time.perf_counter()
        for name, method in methods.items():
            start = clock()
            for _ in range(calls[name]):
                method()
            taken[name].append((clock() - start) / calls[name])
        now = time.perf_counter()
        if now + (now - round_began) > began + 60 * minutes:
            break
    typical = statistics.median if one_thread or on_gpu else lambda t: sorted(t)[len(t) // 4]
    return {name: typical(times) for name, times in taken.items()}


def _when_idle() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def _calls_per_turn(method: Callable[[], object], seconds: float) -> int:
    clock = _when_idle if torch.cuda.is_available() else time.perf_counter
    start = clock()
    method()
    if clock() - start > 100 * seconds:  # a second to warm up would only cost time
        return 1
    start = clock()
    method()
    return max(1, min(1000, round(seconds / max(clock() - start, 1e-9))))


def product_rate(where: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s that a large square matrix product reaches: the fastest of ten, on PyTorch's present number of threads."""
    on_gpu = where.type == "cuda"
    side = 8192 if on_gpu else 1536
    clock = _when_idle if on_gpu else time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    one, other = (torch.randn(side, side, device=where, dtype=dtype) for _ in range(2))
    taken = []
    for _ in range(10):
        start = clock()
        torch.mm(one, other)
        taken.append(clock() - start)
    return 2 * side**3 / min(taken)


def geomean(ratios: Sequence[float]) -> float:
    """The mean of ratios: 2 and 1/2 make 1."""
    return exp(sum(map(log, ratios)) / len(ratios))


def difference(found: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """The largest distance of a tensor from the true one, as a part of the true one's norm.

    By norm, because the gradient of a sampling place jumps where a pixel ends: single numbers may both be right and differ.
    """
    pairs = zip(found, truth, strict=True)
    return max(((f.float() - t.float()).norm() / t.float().norm()).item() for f, t in pairs)


def exponent(sizes: Sequence[float], figures: Sequence[float]) -> float:
    """The p of figure = constant * size ** p that fits best (least squares of logarithms); nan where there are fewer than two."""
    if len(set(sizes)) < 2:
        return float("nan")
    return statistics.linear_regression([log(s) for s in sizes], [log(f) for f in figures]).slope


def header() -> Row:
    """The machine and the versions that figures belong to."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit.stdout.strip() or "unknown",
        "cpu": f"{os.cpu_count()} x {_cpu()}, {torch.backends.cpu.get_cpu_capability()}",
        **({"gpu": ", ".join(gpus)} if gpus else {}),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    family = f" (family {said['cpu family']} model {said['model']})" if "cpu family" in said else ""
    return said.get("model name", platform.machine()) + family


@dataclass
class Options:
    """What all benchmarks are told; a benchmark adds its own."""

    rounds: int = 15
    """Turns of each method."""
    json: bool = False
    """One JSON document on stdout instead of the table."""


@dataclass
class CaseOptions(Options):
    """What benchmarks with cases to choose from, and a number of threads, are told."""

    only: str = ""
    """Cases whose name contains this; not given: all."""
    threads: tuple[int, ...] = (1, 2)
    """Threads of PyTorch, one after the other."""


def given(options: type[Given], description: str | None, arguments: Sequence[str] | None = None) -> Given:
    """The command line as `options`; what it says is wrong ends the benchmark."""
    found: Given = parse(options, prog=None, description=description, arguments=arguments)
    if (rounds := getattr(found, "rounds", 1)) < 1:
        raise SystemExit(f"--rounds {rounds}: wanted a whole number from 1 on")
    return found


def known(names: Sequence[str], among: Iterable[str], what: str) -> None:
    """Ends the benchmark where a name is not one of those there are, which it lists."""
    there = list(among)
    if strange := [name for name in names if name not in there]:
        raise SystemExit(f"no such {what}: {', '.join(strange)}. There are: {', '.join(there)}")


def chosen(names: Sequence[str], only: str) -> list[str]:
    """The names that contain `only`; an error that lists them all where none does."""
    found = [name for name in names if only in name]
    if not found:
        raise SystemExit(f"--only {only!r}: no such case. There are: {', '.join(names)}")
    return found


def progress(text: str) -> None:
    """One line on stderr, so that stdout stays the result."""
    print(text, file=sys.stderr, flush=True)


def report(rows: Sequence[Row], *, as_json: bool, summary: Row | None = None) -> None:
    """Prints the header, the rows (all with the same keys) and the summary: as Markdown, or as one JSON document."""
    document = {"machine": header(), "rows": list(rows), "summary": summary or {}}
    print(json.dumps(document, indent=1) if as_json else as_markdown(document))


def as_markdown(document: dict[str, Any]) -> str:
    """What `report` prints, from the JSON document that it prints."""
    rows = document["rows"]
    lines = [", ".join(f"{key} {value}" for key, value in document["machine"].items()), ""]
    if rows:
        lines += ["| " + " | ".join(rows[0]) + " |", "|---" + "|---:" * (len(rows[0]) - 1) + "|"]
    lines += ["| " + " | ".join(_cell(value) for value in row.values()) + " |" for row in rows]
    if document["summary"]:
        lines += ["", *(f"{key}: {_cell(value)}" for key, value in document["summary"].items())]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
