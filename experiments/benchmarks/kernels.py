"""How fast is our deformable attention (csrc/deform_attn*.cpp) on the CPU against what everybody runs?

    python experiments/benchmarks/kernels.py                       # 1 and 2 threads, a few minutes
    python experiments/benchmarks/kernels.py --compiled            # torch.compile of the plain path too: minutes more
    python experiments/benchmarks/kernels.py --capability avx2     # as on a CPU without AVX-512
    python experiments/benchmarks/kernels.py --only 'TSB b2->b3' --json

The plain path is softmax, locations and grid_sample, as every deformable attention module runs it without a compiled kernel; the
core is grid_sample and the weighted sum alone, from locations and weights that somebody else made. Milliseconds, and how many
times slower than ours. Errors are the largest of output and gradients, relative to the largest number, against float64.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import timing
import torch
import torch.nn.functional as F
from torch import Tensor

from piip.ops.deform_attn import active_kernel, deform_attn

# B batch, Q queries, V pixels of the value map, N heads, P points, D channels per head


@dataclass(frozen=True)
class Case:
    """One call: the shapes of PIIP's interactions at 4 points."""

    query_hw: tuple[int, int]
    value_hw: tuple[int, int]
    dim: int
    batch: int = 2
    heads: int = 16
    points: int = 4


# Landscape 1568x1120 and square 1568 images; deform_num_heads 16, value ratio 0.5: widths 192 to 1024 are 6 to 32 channels a head.
CASES = {
    "TSB b2->b3 D6": Case((70, 98), (50, 70), 6),
    "TSB b3->b2 D12": Case((50, 70), (70, 98), 12),
    "TSB b2->b1 D24": Case((30, 42), (50, 70), 24),
    "SBL b2->b1 D32": Case((42, 42), (70, 70), 32),
    "SBL b2->b3 D12": Case((98, 98), (70, 70), 12),
    "cls TSB b2->b3 D6": Case((23, 23), (12, 12), 6, batch=8),
    "demo 28x28 D32": Case((28, 28), (28, 28), 32, batch=1, heads=6),
    "demo 14x14 D16": Case((14, 14), (14, 14), 16, heads=6),
    "1x1 map D12": Case((14, 14), (1, 1), 12),
    "1x1 all D12": Case((1, 1), (1, 1), 12),
}
SCATTER = 3.0  # pixels, standard deviation of the offsets


class Inputs:
    """Seeded tensors of a case, and the ways to compute from them."""

    def __init__(self, case: Case, dtype: torch.dtype = torch.float32) -> None:
        self.case = case
        random = torch.Generator().manual_seed(0)
        (rows, columns), (height, width) = case.query_hw, case.value_hw
        per_head = (case.batch, rows * columns, case.heads, case.points)
        # Made once per shape by everybody, so not timed.
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        reference_points = torch.stack((x.flatten() / columns, y.flatten() / rows), -1)[:, None, None].double()
        size = torch.tensor([width, height], dtype=torch.float64)

        value = torch.randn(case.batch, height * width, case.heads, case.dim, generator=random)
        offsets = torch.randn(*per_head, 2, generator=random) * SCATTER
        logits = torch.randn(*per_head, generator=random)
        grad_out = torch.randn(case.batch, rows * columns, case.heads * case.dim, generator=random)
        # Where a pixel ends, the gradient jumps: there float32 and float64 may both be right and differ.
        places = reference_points * size - 0.5 + offsets
        offsets += torch.where((places - places.round()).abs() < 1e-3, 3e-3, 0.0)

        self.value, self.offsets, self.logits = (t.to(dtype).requires_grad_() for t in (value, offsets, logits))
        self.grad_out, self.reference_points, self.size = (t.to(dtype) for t in (grad_out, reference_points, size))
        self.locations, self.weights = (t.detach() for t in self.locate(self.offsets, self.logits))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """What every method takes."""
        return self.value, self.offsets, self.logits

    def ours(self, value: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
        """The op, with the kernel of this machine."""
        return deform_attn(value, offsets, logits, self.case.value_hw, self.case.query_hw)

    def plain(self, value: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
        """Softmax, locations and sampling in PyTorch."""
        return self.core(value, *self.locate(offsets, logits))

    def locate(self, offsets: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Sampling locations in [0, 1] and weights."""
        return self.reference_points + offsets / self.size, logits.softmax(-1)

    def core(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        """grid_sample, which knows no heads, and the weighted sum."""
        case = self.case
        maps = value.flatten(2).transpose(1, 2).reshape(case.batch * case.heads, case.dim, *case.value_hw)
        grid = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
        sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weights = weights.transpose(1, 2).reshape(case.batch * case.heads, 1, -1, case.points)
        return (sampled * weights).sum(-1).view(case.batch, case.heads * case.dim, -1).transpose(1, 2).contiguous()

    def forward(self, method: Callable[..., Tensor], *tensors: Tensor) -> Callable[[], Tensor]:
        """A call to time."""
        plain = [t.detach() for t in tensors or self.tensors()]
        return lambda: method(*plain)

    def both(self, method: Callable[..., Tensor], *tensors: Tensor) -> Callable[[], object]:
        """A call to time: the result and all gradients."""
        leaves = [t.detach().requires_grad_() for t in tensors or self.tensors()]
        return lambda: torch.autograd.grad(method(*leaves), leaves, self.grad_out)

    def results(self, method: Callable[..., Tensor]) -> list[Tensor]:
        """Output and gradients."""
        out = method(*self.tensors())
        return [out.detach(), *torch.autograd.grad(out, self.tensors(), self.grad_out)]


def time_case(name: str, *, rounds: int, compiled: bool) -> list[timing.Row]:
    """A row for the forward, a row for forward and backward."""
    full, half = Inputs(CASES[name]), Inputs(CASES[name], torch.bfloat16)
    core = (full.value, full.locations, full.weights)
    torch.compiler.reset()
    inductor = torch.compile(full.plain, fullgraph=True) if compiled else None
    rows = []
    for what in ("forward", "both"):
        methods = {
            "ours": getattr(full, what)(full.ours),
            "bf16": getattr(half, what)(half.ours),
            "plain": getattr(full, what)(full.plain),
            "core": getattr(full, what)(full.core, *core),
        }
        if inductor:
            methods["inductor"] = getattr(full, what)(inductor)
        seconds = timing.interleaved(methods, rounds=rounds)
        row: timing.Row = {"case": name, "threads": torch.get_num_threads(), "what": what}
        row |= {f"{method} ms": 1e3 * taken for method, taken in seconds.items()}
        row |= {f"x {method}": seconds[method] / seconds["ours"] for method in ("plain", "core") if method in seconds}
        if inductor:
            row["x inductor"] = seconds["inductor"] / seconds["ours"]
        row["bf16 x ours"] = seconds["ours"] / seconds["bf16"]
        rows.append(row)
    return rows


def errors(name: str) -> timing.Row:
    """Errors of ours and of the plain path against the plain path in float64, from the same inputs."""
    full, exact = Inputs(CASES[name]), Inputs(CASES[name], torch.float64)
    truth = exact.results(exact.plain)

    def error(results: list[Tensor]) -> float:
        return max(
            ((r - t).abs().max() / t.abs().max().clamp_min(1e-30)).item() for r, t in zip(results, truth, strict=True)
        )

    return {"error ours": error(full.results(full.ours)), "error plain": error(full.results(full.plain))}


def summary(rows: list[timing.Row]) -> timing.Row:
    """Geometric means over the eight shapes of the bars; the 1x1 maps only have to be won."""
    lines: timing.Row = {}
    for threads in sorted({int(str(row["threads"])) for row in rows}):
        for what in ("forward", "both"):
            same = [row for row in rows if row["threads"] == threads and row["what"] == what]
            ratios = [float(str(row["x plain"])) for row in same if not str(row["case"]).startswith("1x1")]
            if ratios:
                lines[f"{what}, {threads} threads, plain / ours"] = (
                    f"geomean {timing.geomean(ratios):.1f}, least {min(ratios):.1f}"
                )
    return lines


@dataclass
class Options(timing.CaseOptions):
    """What this benchmark is told."""

    compiled: bool = False
    """Time torch.compile of the plain path too."""
    capability: Literal["avx2", "default"] | None = None
    """Use (and give PyTorch) no more of the CPU than this."""


def main() -> None:
    """Measures what was asked for and prints a table."""
    given = timing.given(Options, __doc__)
    if given.capability and os.environ.get("ATEN_CPU_CAPABILITY") != given.capability:  # read once, when PyTorch starts
        environment = os.environ | {"ATEN_CPU_CAPABILITY": given.capability}
        raise SystemExit(subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode)
    rows: list[timing.Row] = []
    for name in timing.chosen(list(CASES), given.only):
        for threads in given.threads:
            torch.set_num_threads(threads)
            timing.progress(f"{name}, {threads} threads, {active_kernel()}")
            measured = errors(name)
            rows += [row | measured for row in time_case(name, rounds=given.rounds, compiled=given.compiled)]
    timing.report(rows, as_json=given.json, summary=summary(rows))


if __name__ == "__main__":
    main()
