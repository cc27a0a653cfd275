r"""How long does one interaction's deformable attention take on a GPU, against what everybody runs?

    PYTHONPATH=. python experiments/benchmarks/gpu_kernels.py      # one GPU, a few minutes; nothing but the checkout and PyTorch
    PYTHONPATH=. python experiments/benchmarks/gpu_kernels.py --storage fp32 --only TSB --json
    PYTHONPATH=. ncu --set full -k regex:'(forward|backward)_kernel' -o deform_attn python \
        experiments/benchmarks/gpu_kernels.py --once cuda --only 'TSB interaction'

An interaction of three branches is four directions, here at 1568x1120 (grids 30x42, 50x70 and 70x98), batch 2, 16 heads, 4 points.
Forward and backward are captured in a CUDA graph each, so that launches cost what they cost in a captured step; microseconds are the
median over rounds in which the methods take turns. All data fits the L2 cache of a data centre GPU and stays there between replays.

Methods: `cuda` (csrc/deform_attn_cuda*), the same with `torch.use_deterministic_algorithms`, `triton`; and what they are measured against:
`classic`, the design of the public kernels (csrc/deform_attn_classic.cu, float32, with the softmax, locations and casts around it),
`plain` (softmax, locations, grid_sample) and `compiled` (torch.compile of that). Every method's output and gradients are first held to
float64. In Nsight Compute look at "GPU Speed Of Light": issue slots and L1/TEX limit forward, L2 atomics backward.

Bars for TSB on an H200: forward 45 us, backward 150 us; forward 4 times and backward 8 times the faster of classic and plain.
"""

import argparse
import functools
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import timing
import torch
from torch import Tensor

from piip.ops import build_cuda
from piip.ops.deform_attn import deform_attn, reference
from piip.ops.kernels import active_kernel

# B batch, Q queries, V pixels of the value map, N heads, P points, D channels per head
Size = tuple[int, int]
Method = Callable[[Tensor, Tensor, Tensor, Size, Size], Tensor]

BATCH, HEADS, POINTS = 2, 16, 4
SCATTER = 3.0  # pixels, standard deviation of the offsets
GRIDS = {
    "b1": (30, 42),
    "b2": (50, 70),
    "b3": (70, 98),
}  # 1568x1120, 1120x800 and 672x480 images, padded to the windows' multiple
WIDTHS = {
    "TSB": {"b1": 24, "b2": 12, "b3": 6},
    "SBL": {"b1": 32, "b2": 24, "b3": 12},
}  # a head's: the query's width / 2 / 16
DIRECTIONS = (("b3", "b2"), ("b2", "b3"), ("b2", "b1"), ("b1", "b2"))  # of the value, of the query
STORAGES = {  # of the value and the output, of offsets and logits
    "bf16": (torch.bfloat16, torch.bfloat16),
    "mixed": (torch.bfloat16, torch.float32),
    "fp16": (torch.float16, torch.float16),
    "fp32": (torch.float32, torch.float32),
}
LARGEST_ERROR = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass(frozen=True)
class Direction:
    """One call: the tokens of one branch ask the map of another."""

    value_hw: Size
    query_hw: Size
    dim: int

    def tensors(self, storage: str, device: str) -> tuple[list[Tensor], Tensor]:
        """Value, offsets and logits, which want gradients; and a gradient of the output. The same numbers every time."""
        random = torch.Generator().manual_seed(0)
        queries = self.query_hw[0] * self.query_hw[1]
        value = torch.randn(BATCH, self.value_hw[0] * self.value_hw[1], HEADS, self.dim, generator=random)
        offsets = torch.randn(BATCH, queries, HEADS, POINTS, 2, generator=random) * SCATTER
        logits = torch.randn(BATCH, queries, HEADS, POINTS, generator=random)
        grad_out = torch.randn(BATCH, queries, HEADS * self.dim, generator=random)
        of_value, of_location = STORAGES[storage]
        centres, size = _centres_and_size(self.value_hw, self.query_hw, "cpu")
        # Where a pixel begins the gradient jumps: there float32 and float64 may both be right and differ.
        offsets = offsets.to(of_location)
        places = centres.double() * size - 0.5 + offsets.double()
        offsets += 0.25 * ((places - places.round()).abs() < 1e-3)
        given = [value.to(of_value), offsets, logits.to(of_location)]
        return [t.to(device).requires_grad_() for t in given], grad_out.to(device, of_value)


def cases() -> dict[str, list[Direction]]:
    """Each direction alone, and the four of an interaction one after the other."""
    found: dict[str, list[Direction]] = {}
    for name, widths in WIDTHS.items():
        directions = {
            f"{name} {value}->{query} D{widths[query]}": Direction(GRIDS[value], GRIDS[query], widths[query])
            for value, query in DIRECTIONS
        }
        found |= {f"{name} interaction": list(directions.values())}
        found |= {case: [direction] for case, direction in directions.items()}
    return found


@functools.cache
def _centres_and_size(value_hw: Size, query_hw: Size, device: str) -> tuple[Tensor, Tensor]:
    """Queries' centres (1, Q, 1, 1, 2) in [0, 1], and the map's columns and rows. Public code makes them once per forward at best."""
    y, x = torch.meshgrid(*(torch.arange(n) + 0.5 for n in query_hw), indexing="ij")
    centres = torch.stack((x.flatten() / query_hw[1], y.flatten() / query_hw[0]), -1)[None, :, None, None]
    return centres.to(device), torch.tensor([value_hw[1], value_hw[0]], dtype=torch.float32, device=device)


class _Classic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        ctx.save_for_backward(*inputs[:3])
        ctx.hw = inputs[3:]
        return torch.ops.piip.deform_attn_classic_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradients = torch.ops.piip.deform_attn_classic_backward(grad_out.contiguous(), *ctx.saved_tensors, *ctx.hw)
        return *gradients, None, None, None, None


def classic(value: Tensor, offsets: Tensor, logits: Tensor, value_hw: Size, query_hw: Size) -> Tensor:
    """As the public modules: softmax and locations by PyTorch in float32, then the kernel."""
    centres, size = _centres_and_size(value_hw, query_hw, str(value.device))
    locations = centres + offsets.float() / size
    weights = logits.float().softmax(-1)
    return _Classic.apply(value.float(), locations, weights, *value_hw, *query_hw).to(value.dtype)


def plain(value: Tensor, offsets: Tensor, logits: Tensor, value_hw: Size, query_hw: Size) -> Tensor:
    """PyTorch ops in float32."""
    return reference(value.float(), offsets.float(), logits.float(), value_hw, query_hw).to(value.dtype)


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted)
    # its help to find bugs, filling new tensors, is no part of the method
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


METHODS: dict[str, Method] = {
    "cuda": functools.partial(deform_attn, kernel="cuda"),
    "cuda, deterministic": functools.partial(deform_attn, kernel="cuda"),
    "triton": functools.partial(deform_attn, kernel="triton"),
    "classic": classic,
    "plain": plain,
    "compiled": torch.compile(plain, dynamic=False),
}


def run(method: Method, given: Sequence[Tensor], direction: Direction) -> Tensor:
    """The output of a method."""
    value, offsets, logits = given
    return method(value, offsets, logits, direction.value_hw, direction.query_hw)


class Captured:
    """A method on the directions of a case: forward and backward as CUDA graphs, and their results' error."""

    def __init__(self, name: str, directions: Sequence[Direction], storage: str) -> None:
        self.calls = [(d, *d.tensors(storage, "cuda")) for d in directions]
        method, stream = METHODS[name], torch.cuda.Stream()

        def forward() -> list[Tensor]:
            return [run(method, given, d) for d, given, _ in self.calls]

        def backward(outs: list[Tensor]) -> list[tuple[Tensor, ...]]:
            calls = zip(outs, self.calls, strict=True)
            return [torch.autograd.grad(out, given, grad_out, retain_graph=True) for out, (_, given, grad_out) in calls]

        with _deterministic(name.endswith("deterministic")):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):  # compiles, and warms the allocator up
                    backward(forward())
            torch.cuda.current_stream().wait_stream(stream)
            self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.forward, stream=stream):
                self.outs = forward()
            with torch.cuda.graph(self.backward, pool=self.forward.pool(), stream=stream):
                self.gradients = backward(self.outs)

    def error(self) -> float:
        """The largest of output and gradients, relative to the largest number, against float64."""
        self.forward.replay()
        self.backward.replay()
        errors = []
        for (d, given, grad_out), out, gradients in zip(self.calls, self.outs, self.gradients, strict=True):
            exact = [t.detach().double().requires_grad_() for t in given]
            wanted = run(reference, exact, d)
            pairs = zip(
                (out, *gradients), (wanted, *torch.autograd.grad(wanted, exact, grad_out.double())), strict=True
            )
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
    """A row per method.

    Raises:
        SystemExit: A method computes something else.
    """
    torch.compiler.reset()  # it compiles a function for eight shapes at most
    captured: dict[str, Captured] = {}
    errors: dict[str, float] = {}
    for name in names:
        timing.progress(f"{case}, {name}")
        captured[name] = Captured(name, cases()[case], storage)
        errors[name] = captured[name].error()
        if not errors[name] < LARGEST_ERROR[STORAGES[storage][0]]:
            raise SystemExit(f"{case}: {name} is {errors[name]:.1e} away from float64; no time is worth reporting.")
    forward = microseconds({name: c.forward for name, c in captured.items()}, rounds)
    backward = microseconds({name: c.backward for name, c in captured.items()}, rounds)
    others = [name for name in ("classic", "plain", "compiled") if name in names]
    return [
        {
            "case": case,
            "method": name,
            "forward us": forward[name],
            "backward us": backward[name],
            "faster than best other, forward": min((forward[o] for o in others), default=float("nan")) / forward[name],
            "faster than best other, backward": min((backward[o] for o in others), default=float("nan"))
            / backward[name],
            "error": errors[name],
        }
        for name in names
    ]


def once(name: str, directions: Sequence[Direction], storage: str) -> None:
    """Forward and backward without a graph, for a profiler; twice, since the first compiles."""
    for direction in directions:
        given, grad_out = direction.tensors(storage, "cuda")
        with _deterministic(name.endswith("deterministic")):
            for _ in range(2):
                out = run(METHODS[name], given, direction)
                torch.autograd.grad(out, given, grad_out)
    torch.cuda.synchronize()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what was asked for and prints a table; 1 where there is no GPU or no CUDA kernel."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains this")
    options.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME", help="default: all"
    )
    options.add_argument(
        "--storage", choices=STORAGES, default="bf16", help="dtypes (default: bf16; mixed: offsets and logits fp32)"
    )
    options.add_argument("--rounds", type=int, default=15, help="turns of each method (default: 15)")
    options.add_argument(
        "--once", choices=METHODS, metavar="NAME", help="run one method, time nothing: for Nsight Compute"
    )
    options.add_argument("--json", action="store_true", help="one JSON document on stdout instead of the table")
    given = options.parse_args(arguments)
    wanted = timing.chosen(list(cases()), given.only)
    if not torch.cuda.is_available():
        print(
            "no CUDA GPU here: these figures need one. `python -m piip.ops.build --cuda --check` needs none.",
            file=sys.stderr,
        )
        return 1
    if not build_cuda.load():
        print(f"the CUDA kernels cannot be built: {build_cuda.problem()}", file=sys.stderr)
        return 1
    active_kernel("triton", "cuda")  # raises where Triton is missing
    if given.once:
        for case in wanted:
            once(given.once, cases()[case], given.storage)
        return 0
    rows = [row for case in wanted for row in measure(case, given.methods, given.storage, given.rounds)]
    timing.report(rows, as_json=given.json, summary={"storage": given.storage, "batch": BATCH})
    return 0


if __name__ == "__main__":
    sys.exit(main())
