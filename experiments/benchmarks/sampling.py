"""How fast are msda and dcnv3 (csrc/sampling*.cpp) on the CPU against grid_sample?

    python experiments/benchmarks/sampling.py                    # 1 and 2 threads, a few minutes
    python experiments/benchmarks/sampling.py --only dcnv3 --threads 1
    ATEN_CPU_CAPABILITY=avx2 python experiments/benchmarks/sampling.py     # as on a CPU without AVX-512, PyTorch included

`plain` is what everybody runs without a compiled kernel, grid_sample and a weighted sum: `reference` of the same file in piip/ops.
Milliseconds, and how many times slower than ours. DCNv3: InternImage-T's shapes, 16 channels a group, batch 2. msda: the shapes
of PIIP's interactions (kernels.py; locations and weights made by somebody else), and DINO's decoder over four levels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import kernels
import timing
import torch
from torch import Tensor

from piip.ops import dcnv3 as dcnv3_op
from piip.ops import msda as msda_op
from piip.ops.kernels import active_kernel


@dataclass(frozen=True)
class Call:
    """Seeded tensors, and the two ways to compute from them."""

    tensors: tuple[Tensor, ...]
    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]

    def methods(self, what: str) -> dict[str, Callable[[], object]]:
        """The contestants; `what` is "forward" or "both"."""
        half = [t.bfloat16() for t in self.tensors]
        runs = {"ours": (self.ours, self.tensors), "bf16": (self.ours, half), "plain": (self.plain, self.tensors)}
        return {name: getattr(self, what)(method, *tensors) for name, (method, tensors) in runs.items()}

    def forward(self, method: Callable[..., Tensor], *tensors: Tensor) -> Callable[[], object]:
        """One call without gradients."""
        return lambda: method(*tensors)

    def both(self, method: Callable[..., Tensor], *tensors: Tensor) -> Callable[[], object]:
        """One call and the gradients of all its tensors."""
        leaves = [t.detach().clone().requires_grad_() for t in tensors]
        grad_out = torch.randn_like(method(*leaves))
        return lambda: torch.autograd.grad(method(*leaves), leaves, grad_out)


def dcnv3(side: int, groups: int, *, batch: int = 2, scatter: float = 1.0) -> Call:
    """A 3x3 operator with 16 channels a group."""
    random = torch.Generator().manual_seed(0)
    value = torch.randn(batch, side, side, groups * 16, generator=random)
    offsets = torch.randn(batch, side, side, groups * 18, generator=random) * scatter
    mask = torch.randn(batch, side, side, groups, 9, generator=random).softmax(-1).flatten(3)
    return Call(
        (value, offsets, mask),
        lambda *tensors: dcnv3_op.dcnv3(*tensors, groups=groups),
        lambda value, offsets, mask: dcnv3_op.reference(value, offsets, mask, 3, 1, 1, 1, groups, 1.0, False),
    )


def interaction(case: kernels.Case) -> Call:
    """The drop-in at the shape of an interaction of PIIP: one level, queries on a grid."""
    inputs = kernels.Inputs(case)
    tensors = inputs.value.detach(), inputs.locations[:, :, :, None], inputs.weights[:, :, :, None]
    return msda(tensors, [case.value_hw])


def decoder() -> Call:
    """DINO's decoder at 800 x 1072 pixels: 900 queries, 8 heads of 32 channels, four levels of four points."""
    random = torch.Generator().manual_seed(0)
    shapes = [(100, 134), (50, 67), (25, 34), (13, 17)]
    value = torch.randn(2, sum(rows * columns for rows, columns in shapes), 8, 32, generator=random)
    centres = torch.rand(2, 900, 1, 1, 1, 2, generator=random)
    locations = centres + 0.05 * torch.randn(2, 900, 8, 4, 4, 2, generator=random)
    weights = torch.randn(2, 900, 8, 16, generator=random).softmax(-1).unflatten(-1, (4, 4))
    return msda((value, locations, weights), shapes)


def msda(tensors: tuple[Tensor, ...], shapes: list[tuple[int, int]]) -> Call:
    return Call(
        tensors,
        lambda value, *others: msda_op.msda(value, shapes, *others),
        lambda value, *others: msda_op.reference(value, shapes, *others),
    )


CASES: dict[str, Callable[[], Call]] = {
    "dcnv3 56x56 G4": lambda: dcnv3(56, 4),
    "dcnv3 28x28 G8": lambda: dcnv3(28, 8),
    "dcnv3 14x14 G16": lambda: dcnv3(14, 16),
    "dcnv3 100x100 G4": lambda: dcnv3(100, 4),
    **{f"msda {name}": lambda case=case: interaction(case) for name, case in kernels.CASES.items()},
    "msda decoder 4 levels D32": decoder,
}
BARRED = (
    "msda TSB",
    "msda SBL",
    "msda cls",
    "msda demo",
)  # the eight shapes of facts/kernels.md; 1x1 maps only have to be won


def time_case(name: str, rounds: int) -> list[timing.Row]:
    """A row for the forward, a row for forward and backward."""
    call, rows = CASES[name](), []
    for what in ("forward", "both"):
        seconds = timing.interleaved(call.methods(what), rounds=rounds)
        row: timing.Row = {"case": name, "threads": torch.get_num_threads(), "what": what}
        row |= {f"{method} ms": 1e3 * taken for method, taken in seconds.items()}
        row |= {"x plain": seconds["plain"] / seconds["ours"], "bf16 x ours": seconds["ours"] / seconds["bf16"]}
        rows.append(row)
    return rows


def summary(rows: list[timing.Row]) -> timing.Row:
    lines: timing.Row = {}
    for threads in sorted({int(str(row["threads"])) for row in rows}):
        for op, prefixes in {"dcnv3": ("dcnv3",), "msda, interactions": BARRED}.items():
            for what in ("forward", "both"):
                same = [row for row in rows if (row["threads"], row["what"]) == (threads, what)]
                ratios = [float(str(row["x plain"])) for row in same if str(row["case"]).startswith(prefixes)]
                if ratios:
                    said = f"geomean {timing.geomean(ratios):.1f}, least {min(ratios):.1f}"
                    lines[f"{op}, {what}, {threads} threads, plain / ours"] = said
    return lines


def main() -> None:
    given = timing.given(timing.CaseOptions, __doc__)
    rows: list[timing.Row] = []
    for name in timing.chosen(list(CASES), given.only):
        for threads in given.threads:
            torch.set_num_threads(threads)
            timing.progress(f"{name}, {threads} threads, {active_kernel()}")
            rows += time_case(name, given.rounds)
    timing.report(rows, as_json=given.json, summary=summary(rows))


if __name__ == "__main__":
    main()
