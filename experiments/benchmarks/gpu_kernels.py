r"""How long does one interaction's deformable attention take on a GPU, against what everybody runs?

    PYTHONPATH=. python experiments/benchmarks/gpu_kernels.py      # one GPU, a few minutes; nothing but the checkout and PyTorch
    PYTHONPATH=. python experiments/benchmarks/gpu_kernels.py --storage fp32 --only TSB --json
    PYTHONPATH=. python experiments/benchmarks/gpu_kernels.py --list      # the cases and the bytes they move; needs no GPU
    PYTHONPATH=. python experiments/benchmarks/gpu_kernels.py --ncu       # which commands show the limiting unit; needs no GPU

An interaction of three branches is four directions, here at 1568x1120 (grids 30x42, 50x70 and 70x98), batch 2, 16 heads, 4 points.
Forward and backward are captured in a CUDA graph each, so that launches cost what they cost in a captured step; microseconds are the
median over rounds in which the methods take turns. All data fits the L2 cache of a data centre GPU and stays there between replays, so
`GB/s` (what has to be read and written, each number once) may pass what its memory gives.

Methods (gpu_methods.py): `cuda` (csrc/deform_attn_cuda*) from the packed output of one layer, both directions of a unit in one launch,
as the networks run it; the same in two launches (a case of one direction always is one), one after the other or on two streams; under
`torch.use_deterministic_algorithms`; from offsets and logits apart; with the value's gradient in int64 in memory or in planes of shared
memory; `triton`. They are measured against `classic`, the design of the public kernels (csrc/deform_attn_classic_cuda.cu, float32, with
the softmax, locations and casts around it), `plain` (softmax, locations, grid_sample) and `compiled` (torch.compile of that). Every
method's output and gradients are first held to float64; what is wrong or cannot run is said on stderr and not timed.

Bars (gpu_cases.py) for TSB on an H200: forward 45 us, backward 150 us; 4 and 8 times as fast as the faster of classic and plain.
"""

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import TypeVar

import timing
import torch
from gpu_cases import BATCH, STORAGES, Direction, cases, judge, megabytes
from gpu_methods import METHODS
from torch import Tensor

from piip.ops.compiled import cuda
from piip.ops.deform_attn import reference
from piip.ops.kernels import active_kernel

R = TypeVar("R")
LARGEST_ERROR = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
NCU = """Which unit limits a kernel (a part of its peak, in per cent; issue 4 wants 60 or more of the limiting one):

  PEAK=avg.pct_of_peak_sustained_elapsed
  PYTHONPATH=. ncu -k 'regex:(forward|backward|planes)(_pair)?_kernel' --clock-control none \\
    --section SpeedOfLight --section WarpStateStats --metrics sm__inst_issued.$PEAK,l1tex__throughput.$PEAK,lts__throughput.$PEAK \\
    python experiments/benchmarks/gpu_kernels.py --once '{method}' --only '{case}' --storage {storage}

The first kernel of each name warms up, read the second. Expected: issue slots (sm__inst_issued) and L1/TEX limit forward, L2 (lts, atomic
additions) backward, shared memory (l1tex) planes_kernel."""


class Captured:
    """A method on the directions of a case: forward and backward as CUDA graphs, and their results' error."""

    def __init__(self, name: str, directions: Sequence[Direction], storage: str) -> None:
        self.method, self.directions = METHODS[name], directions
        self.given, self.grad_outs = zip(*(self.method.inputs(d, storage, "cuda") for d in directions), strict=True)
        self.storage, stream = storage, torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # compiles, and warms the allocator up
                self._backward(self._forward())
        torch.cuda.current_stream().wait_stream(stream)
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.forward, stream=stream):
            self.outs = self._forward()
        with torch.cuda.graph(self.backward, pool=self.forward.pool(), stream=stream):
            self.gradients = self._backward(self.outs)

    def _forward(self) -> list[Tensor]:
        if units := list(self.method.units(self.directions)):
            return [out for unit in units for out in self.method.unit(self.given[unit], self.directions[unit])]
        return self._each(lambda i: self.method(self.given[i], self.directions[i]))

    def _backward(self, outs: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        gradients = []
        for unit in self.method.units(self.directions):
            one, other = self.given[unit]
            found = self.method.gradients(outs[unit], [*one, *other], self.grad_outs[unit])
            gradients += [found[: len(one)], found[len(one) :]]
        return gradients or self._each(lambda i: self.method.gradients(outs[i], self.given[i], self.grad_outs[i]))

    def _each(self, run: Callable[[int], R]) -> list[R]:
        """`run(i)` for every direction, `method.together` of them at once."""
        main, results = torch.cuda.current_stream(), []
        for first in range(0, len(self.directions), self.method.together):
            group = range(first, min(first + self.method.together, len(self.directions)))
            others = [torch.cuda.Stream() for _ in group[1:]]
            for i, stream in zip(group, [main, *others], strict=True):
                if stream is not main:
                    stream.wait_stream(main)
                with torch.cuda.stream(stream):
                    results.append(run(i))
            for stream in others:
                main.wait_stream(stream)
        return results

    def error(self) -> float:
        """The largest of output and gradients, relative to the largest number, against float64."""
        self.forward.replay()
        self.backward.replay()
        errors = []
        for d, grad_out, out, gradients in zip(self.directions, self.grad_outs, self.outs, self.gradients, strict=True):
            value, offsets, logits = (t.double().requires_grad_() for t in d.tensors(self.storage, "cuda")[0])
            wanted = reference(value, offsets, logits, d.value_hw, d.query_hw)
            of_value, *of_points = torch.autograd.grad(wanted, (value, offsets, logits), grad_out.double())
            if self.method.packed:
                of_points = [torch.cat([g.flatten(2) for g in of_points], -1)]
            pairs = zip((out, *gradients), (wanted, of_value, *of_points), strict=True)
            errors += [((a.double() - e).abs().max() / e.abs().max()).item() for a, e in pairs]
        return max(errors)


def microseconds(graphs: dict[str, torch.cuda.CUDAGraph], rounds: int, replays: int = 20) -> dict[str, float]:
    """Median time of a replay; the graphs take turns."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    taken: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(rounds + 1):
        for name, graph in graphs.items():
            begin.record()
            for _ in range(replays):
                graph.replay()
            end.record()
            end.synchronize()
            if turn:  # the first warms up
                taken[name].append(begin.elapsed_time(end) * 1000 / replays)
    return {name: statistics.median(times) for name, times in taken.items()}


def measure(case: str, names: Sequence[str], storage: str, rounds: int) -> list[timing.Row]:
    """A row per method that runs and computes what the others do."""
    torch.compiler.reset()  # it compiles a function for eight shapes at most
    captured: dict[str, Captured] = {}
    errors: dict[str, float] = {}
    for name in names:
        timing.progress(f"{case}, {name}")
        try:
            method = Captured(name, cases()[case], storage)
            errors[name] = method.error()
        except RuntimeError as problem:  # the others are still worth their time on a machine that is lent
            timing.progress(f"FAILED: {case}: {name} does not run: {problem}")
            continue
        if not errors[name] < LARGEST_ERROR[STORAGES[storage][0]]:
            timing.progress(
                f"FAILED: {case}: {name} is {errors[name]:.1e} away from float64; its time is not reported."
            )
            continue
        captured[name] = method
    forward = microseconds({name: c.forward for name, c in captured.items()}, rounds)
    backward = microseconds({name: c.backward for name, c in captured.items()}, rounds)
    return [row(case, name, storage, forward, backward, errors[name]) for name in captured]


def row(
    case: str, name: str, storage: str, forward: dict[str, float], backward: dict[str, float], error: float
) -> timing.Row:
    """What is reported of a method, from the microseconds of all methods."""
    figures: timing.Row = {"case": case, "method": name}
    for way, taken, size in zip(("forward", "backward"), (forward, backward), megabytes(case, storage), strict=True):
        figures |= {f"{way} us": taken[name], f"{way} GB/s": size / taken[name] * 1e3}
        figures |= {f"{way} x {other}": taken.get(other, nan) / taken[name] for other in ("classic", "plain")}
    return figures | {"error": error}


def bars(rows: Sequence[timing.Row]) -> dict[str, str]:
    """What the rows of `cuda` say about the bars; none that asks for a method which was not timed."""
    figures = {}
    for one in rows:
        if one["method"] == "cuda":
            of_case = figures[str(one["case"])] = {}
            for way in ("forward", "backward"):
                of_case[f"{way} us"] = float(str(one[f"{way} us"]))
                ratios = [float(str(one[f"{way} x {other}"])) for other in ("classic", "plain")]
                of_case[f"{way} x"] = nan if any(map(isnan, ratios)) else min(ratios)
    return judge(figures)


def once(name: str, directions: Sequence[Direction], storage: str) -> None:
    """Forward and backward without a graph, for a profiler; twice, since the first compiles."""
    method = METHODS[name]
    for unit in list(method.units(directions)) or [slice(i, i + 1) for i in range(len(directions))]:
        given, grad_outs = zip(*(method.inputs(d, storage, "cuda") for d in directions[unit]), strict=True)
        for _ in range(2):
            outs = method.unit(given, directions[unit]) if len(given) == 2 else [method(given[0], directions[unit][0])]
            method.gradients(outs, [t for leaves in given for t in leaves], grad_outs)
    torch.cuda.synchronize()


@dataclass
class Options(timing.Options):
    """What this benchmark is told."""

    only: str = ""
    """Cases whose name contains this; not given: all."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Which are timed; not given: all."""
    storage: str = "bf16"
    """The tensors' dtypes; mixed: offsets and logits in fp32."""
    once: str | None = None
    """Run this method once and time nothing: for a profiler."""
    list: bool = False
    """Say what the cases are, and what they move."""
    ncu: bool = False
    """Say which command shows the limiting unit."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what was asked for and prints a table; 1 where there is no GPU or no CUDA kernel."""
    given = timing.given(Options, __doc__, arguments)
    timing.known([*given.methods, *([given.once] if given.once else [])], METHODS, "method")
    timing.known([given.storage], STORAGES, "storage")
    wanted = timing.chosen(list(cases()), given.only)
    if given.ncu:
        print(NCU.format(method=given.once or "cuda", case=wanted[0], storage=given.storage))
        return 0
    if given.list:
        sizes = {case: megabytes(case, given.storage) for case in wanted}
        rows = [{"case": c, "forward MB": f, "backward MB": b} for c, (f, b) in sizes.items()]
        timing.report(rows, as_json=given.json, summary={"storage": given.storage, "batch": BATCH})
        return 0
    if problem := missing():
        print(problem, file=sys.stderr)
        return 1
    if given.once:
        for case in wanted:
            once(given.once, cases()[case], given.storage)
        return 0
    rows = [one for case in wanted for one in measure(case, given.methods, given.storage, given.rounds)]
    timing.report(rows, as_json=given.json, summary={"storage": given.storage, "batch": BATCH, **bars(rows)})
    return 0 if len(rows) == len(wanted) * len(given.methods) else 1


def missing() -> str:
    """Why nothing can be measured here; empty where it can."""
    if not torch.cuda.is_available():
        return "no CUDA GPU here: these figures need one. `python -m piip.ops.build --cuda --check` needs none."
    if not cuda.load():
        return f"the CUDA kernels cannot be built: {cuda.problem()}"
    active_kernel("triton", "cuda")  # raises where Triton is missing
    return ""


if __name__ == "__main__":
    sys.exit(main())
