"""How much faster is one interaction unit, both directions, than the plain path and than what torch.compile makes of it?

    PYTHONPATH=. python experiments/benchmarks/unit.py                # a GPU where there is one: full size; else half size, one thread
    PYTHONPATH=. python experiments/benchmarks/unit.py --compiled     # torch.compile of the plain path too: minutes more
    PYTHONPATH=. python experiments/benchmarks/unit.py --only 'TSB b1-b2' --threads 1 2 --json

A unit is all that two neighbouring branches do in an exchange: projections, norms, deformable attention and ConvFFN of both directions.
b1 sees the smallest image. `plain` computes as the official code does, over grid_sample and with interactions wholly in fp32 under
bf16 too; `ours` is what training runs. Milliseconds, and how many times slower than ours in the same precision; `difference` is the
largest of the outputs' (or gradients') from the plain fp32 path's, by norm. Gradients are those of all weights and tokens.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import timing
import torch
from forms import Form, ends, make_comparable
from torch import Tensor, nn

from piip.models.meeting.interaction import DeformableCrossAttention, InteractionUnit
from piip.spec import InteractionSpec
from piip.weights.resizing import Grid

BATCH = 2
SCATTER = 3.0  # pixels, standard deviation of the offsets
WIDTHS = {"TSB": (768, 384, 192), "SBL": (1024, 768, 384)}  # of b1, b2, b3
# grids of b1, b2, b3: images of 672x480, 1120x800 and 1568x1120, half of that, and the classifiers' 128 to 384
GRIDS = {
    "1568x1120": dict.fromkeys(WIDTHS, ((30, 42), (50, 70), (70, 98))),
    "784x560": dict.fromkeys(WIDTHS, ((15, 21), (25, 35), (35, 49))),
    "classification": {"TSB": ((8, 8), (12, 12), (23, 23)), "SBL": ((8, 8), (12, 12), (24, 24))},
}


@dataclass(frozen=True)
class Case:
    """Two neighbours, the one of the higher resolution first."""

    dims: tuple[int, int]
    grids: tuple[Grid, Grid]


def cases(*, full: bool) -> dict[str, Case]:
    """Both units of each family, at detection and at classification shapes."""
    found = {}
    for size in ("1568x1120" if full else "784x560", "classification"):
        for letters, widths in WIDTHS.items():
            grids = GRIDS[size][letters]
            for low in (0, 1):
                name = f"{letters} b{low + 1}-b{low + 2} {size}"
                found[name] = Case((widths[low + 1], widths[low]), (grids[low + 1], grids[low]))
    return found


class Contest:
    """One unit with seeded weights and tokens, computed in several forms."""

    def __init__(self, case: Case, device: torch.device) -> None:
        torch.manual_seed(0)
        self.case, self.device = case, device
        self.unit = make_comparable(InteractionUnit(*case.dims, InteractionSpec())).to(device)
        for module in self.unit.modules():
            if isinstance(
                module, DeformableCrossAttention
            ):  # offsets start at fixed places, and nobody trains with those
                nn.init.normal_(module.sampling_offsets.weight, std=SCATTER / sqrt(module.sampling_offsets.in_features))
                nn.init.normal_(module.attention_weights.weight, std=1 / sqrt(module.attention_weights.in_features))
        shapes = [(BATCH, rows * columns, dim) for (rows, columns), dim in zip(case.grids, case.dims, strict=True)]
        self.tokens = [torch.randn(shape, device=device, requires_grad=True) for shape in shapes]
        self.grad_out = [torch.randn(shape, device=device) for shape in shapes]

    def method(self, form: Form, *, gradients: bool, compiled: bool = False) -> Callable[[], list[Tensor]]:
        """A call to time: both outputs, or all gradients."""
        unit = copy.deepcopy(self.unit)
        form.apply(unit)
        wanted = [*self.tokens, *unit.parameters()]
        run = torch.compile(unit, dynamic=False) if compiled else unit

        def forward() -> list[Tensor]:
            with form.autocast(self.device):
                return list(run(*self.tokens, *self.case.grids))

        def both() -> list[Tensor]:
            return list(torch.autograd.grad(forward(), wanted, self.grad_out))

        return both if gradients else torch.no_grad()(forward)


def measure(name: str, case: Case, device: torch.device, *, rounds: int, compiled: bool) -> list[timing.Row]:
    """A row for each precision, forward and with gradients."""
    contest, rows = Contest(case, device), []
    for gradients in (False, True):
        methods = {form: contest.method(how, gradients=gradients) for form, how in ends().items()}
        if compiled:
            torch.compiler.reset()
            for precision, form in (("fp32", Form()), ("bf16", Form(bf16=True))):
                methods[f"compiled {precision}"] = contest.method(form, gradients=gradients, compiled=True)
        truth = methods["official fp32"]()
        seconds = timing.interleaved(methods, rounds=rounds, where=device)
        for precision in ("fp32", "bf16"):
            ours = seconds[f"ours {precision}"]
            others = {"plain": seconds[f"official {precision}"]}
            if compiled:
                others["compiled"] = seconds[f"compiled {precision}"]
            row: timing.Row = {"unit": name, "threads": torch.get_num_threads(), "precision": precision}
            row |= {"what": "both" if gradients else "forward", "ours ms": 1e3 * ours}
            row |= {f"{other} ms": 1e3 * taken for other, taken in others.items()}
            row |= {f"x {other}": taken / ours for other, taken in others.items()}
            rows.append(row | {"difference": timing.difference(methods[f"ours {precision}"](), truth)})
    return rows


def summary(rows: list[timing.Row]) -> timing.Row:
    """Geometric means over the units."""
    lines: timing.Row = {}
    for other in ("plain", "compiled"):
        for precision in ("fp32", "bf16"):
            for what in ("forward", "both"):
                same = [row for row in rows if (row["precision"], row["what"]) == (precision, what)]
                ratios = [float(str(row[f"x {other}"])) for row in same if f"x {other}" in row]
                if ratios:
                    lines[f"{other} / ours, {precision}, {what}"] = (
                        f"geomean {timing.geomean(ratios):.2f}, least {min(ratios):.2f}"
                    )
    return lines


@dataclass
class Options(timing.CaseOptions):
    """What this benchmark is told."""

    threads: tuple[int, ...] = (1,)
    """Threads of PyTorch, one after the other; CPU only."""
    compiled: bool = False
    """Time torch.compile of the plain path too."""
    full: bool = False
    """1568x1120 without a GPU, too."""


def main() -> None:
    """Measures what was asked for and prints a table."""
    given, device = timing.given(Options, __doc__), timing.device()
    found = cases(full=given.full or device.type == "cuda")
    rows: list[timing.Row] = []
    for threads in given.threads if device.type == "cpu" else [torch.get_num_threads()]:
        torch.set_num_threads(threads)
        for name in timing.chosen(list(found), given.only):
            timing.progress(f"{name}, {threads} threads")
            rows += measure(name, found[name], device, rounds=given.rounds, compiled=given.compiled)
    timing.report(rows, as_json=given.json, summary=summary(rows))


if __name__ == "__main__":
    main()
