"""How much faster is a whole PIIP backbone, forward and with gradients, than computed as the official code does?

    PYTHONPATH=. python experiments/benchmarks/backbone.py              # a GPU: 1568/1120/672, batch 2; else smaller, batch 1, one thread
    PYTHONPATH=. python experiments/benchmarks/backbone.py --only TSB --scale 0.5 --rounds 3 --json

TSB and SBL with random weights on landscape images, 7 to 5, as detection has them. The official form: interactions in fp32 over
grid_sample, attention by two matrix products and a softmax, padded windows (`official` in forms.py); ours: every switch on. The figures
are milliseconds, and times as fast as the official form in the same precision and in fp32; `difference` is that of the maps from
the official fp32 ones, by norm, or with gradients that of all gradients' norm.
"""

from collections.abc import Callable
from dataclasses import dataclass

import timing
import torch
from forms import Form, ends, make_comparable
from torch import Tensor, nn

from piip.models import build_backbone
from piip.presets import piip

CPU_SCALE = {"TSB": 0.5, "SBL": 2 / 7}  # a step then takes ten seconds on a core


class Backbone:
    """One network and its images, computed in several forms."""

    def __init__(self, letters: str, long_side: int, batch: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device = device
        sizes = tuple(round(side / 1568 * long_side) for side in (1568, 1120, 672)[: len(letters)])
        self.network = make_comparable(build_backbone(piip(letters, sizes), pretrained=False)).to(device).train()
        self.images = torch.randn(batch, 3, round(long_side * 5 / 7), long_side, device=device)
        self.name = f"{letters} {'/'.join(map(str, sizes))} batch {batch}"

    def maps(self, form: Form) -> list[Tensor]:
        """What heads get."""
        form.apply(self.network)
        with form.autocast(self.device):
            return self.network(self.images)

    def method(self, form: Form, *, gradients: bool) -> Callable[[], list[Tensor]]:
        """A call to time: the maps; or the norm of all gradients."""

        def both() -> list[Tensor]:
            sum(feature.float().square().mean() for feature in self.maps(form)).backward()  # type: ignore[union-attr]
            grads = [p.grad for p in self.network.parameters() if p.grad is not None]
            norm = nn.utils.get_total_norm(grads)
            self.network.zero_grad()
            return [norm]

        def forward() -> list[Tensor]:
            with torch.no_grad():
                return self.maps(form)

        return both if gradients else forward


def measure(backbone: Backbone, rounds: int) -> list[timing.Row]:
    """A row per form, forward and with gradients."""
    rows: list[timing.Row] = []
    for what in ("forward", "both"):
        methods = {name: backbone.method(form, gradients=what == "both") for name, form in ends().items()}
        results = {name: method() for name, method in methods.items()}
        seconds = timing.interleaved(methods, rounds=rounds, seconds=0.0, where=backbone.device)
        truth = results["official fp32"]
        rows += [
            {
                "backbone": backbone.name,
                "what": what,
                "form": name,
                "threads": torch.get_num_threads(),
                "ms": 1e3 * taken,
                "images/s": len(backbone.images) / taken,
                "x official, same precision": seconds[f"official {name.split()[-1]}"] / taken,
                "x official fp32": seconds["official fp32"] / taken,
                "difference": timing.difference(results[name], truth),
            }
            for name, taken in seconds.items()
        ]
    return rows


@dataclass
class Options(timing.CaseOptions):
    """What this benchmark is told."""

    rounds: int = 3
    """Turns of each method."""
    threads: tuple[int, ...] = (1,)
    """Threads of PyTorch, one after the other; CPU only."""
    scale: float | None = None
    """Share of 1568/1120/672; not given: 1 on a GPU; CPU: TSB 1/2, SBL 2/7."""
    batch: int | None = None
    """Images; not given: 2 on a GPU, else 1."""


def main() -> None:
    """Measures what was asked for and prints a table."""
    given, device = timing.given(Options, __doc__), timing.device()
    on_cpu = device.type == "cpu"
    rows: list[timing.Row] = []
    for letters in timing.chosen(list(CPU_SCALE), given.only):
        scale = given.scale or (CPU_SCALE[letters] if on_cpu else 1.0)
        backbone = Backbone(letters, round(1568 * scale), given.batch or (1 if on_cpu else 2), device)
        for threads in given.threads if on_cpu else [torch.get_num_threads()]:
            torch.set_num_threads(threads)
            timing.progress(f"{backbone.name}, {threads} threads")
            rows += measure(backbone, given.rounds)
    timing.report(rows, as_json=given.json)


if __name__ == "__main__":
    main()
