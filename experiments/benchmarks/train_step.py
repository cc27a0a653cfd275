"""What does a whole training step gain, switch by switch, over the official code's way of computing it (bars in issue 4)?

    python experiments/benchmarks/train_step.py                      # classification and half-size detection, one thread
    python experiments/benchmarks/train_step.py --only detection --rounds 5 --json

Networks are TSB with random weights, batch 2: classification at 368/192/128, Mask R-CNN at half of 1568/1120/672 (on a GPU at all of it,
too, and SBL). The reference does what the official code does: interactions wholly in fp32 over grid_sample, attention by two matrix
products and a softmax, padded windows, maps copied channels first, fp32, glibc's allocator as it is.
Every line with a + adds one switch to the line above, the others (on a GPU) change the last of those; lines up to `plain fp32` keep
every number to rounding. Each step is forward, backward and AdamW; `difference` is that of the loss from the reference's, as a part
of it. `TFLOP/s` counts what forward and backward pass need without padded or repeated work, the same for every line; `MFU` is its
share of what a large square product reaches in the line's precision, timed in the same run (before the first and after the last
step, the faster of both). A case takes at most about `--minutes`, but always one round after the first, which warms up: about 5
minutes each for detection on one core.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import timing
import torch
from forms import PLAIN_FP32, Form, compiled_forms, forms, gpu_forms, make_comparable
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from piip.models import build_model
from piip.ops.mask_runs import runs_of
from piip.presets import classifier_20ep, mask_rcnn_1x, piip
from piip.spec import ExperimentSpec


def classification() -> tuple[ExperimentSpec, tuple[object, ...]]:
    """TSB 368/192/128 and two images."""
    row = classifier_20ep(piip("TSB", (368, 192, 128)))
    return row, classification_inputs(368, (3, 500), row.model.head.num_classes, timing.device())


def classification_inputs(
    side: int, labels: Sequence[int], num_classes: int, device: torch.device
) -> tuple[object, ...]:
    """Random square images, their sizes, and a class each, for a network to train on."""
    images = torch.randn(len(labels), 3, side, side, generator=torch.Generator().manual_seed(0))
    certain = nn.functional.one_hot(torch.tensor(labels), num_classes).float().to(device)
    return images.to(device), [(side, side)] * len(labels), [{"probabilities": one} for one in certain]


def detection(
    letters: str = "TSB", sides: tuple[int, ...] = (784, 560, 336)
) -> tuple[ExperimentSpec, tuple[object, ...]]:
    """Two images of 7 to 5, their long side the first of `sides`."""
    inputs = detection_inputs(sides[0] * 5 // 7, sides[0], 2, timing.device())
    return mask_rcnn_1x(piip(letters, sides)), inputs


def detection_inputs(height: int, width: int, batch: int, device: torch.device) -> tuple[object, ...]:
    """Random images, their sizes, and five objects each, for a network to train on."""
    random = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, height, width, generator=random)
    corner = torch.rand(batch, 5, 2, generator=random) * height * 0.55
    boxes = torch.cat([corner, corner + height * (0.07 + 0.27 * torch.rand(batch, 5, 2, generator=random))], dim=2)
    targets = []
    for box in boxes:
        masks = torch.zeros(5, height, width, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, box.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        targets.append({"boxes": box, "labels": torch.arange(1, 6), "mask_runs": runs_of(masks)})
    targets = [{name: t.to(device) for name, t in target.items()} for target in targets]
    return images.to(device), [(height, width)] * batch, targets


Case = Callable[[], tuple[ExperimentSpec, tuple[object, ...]]]
CASES: dict[str, Case] = {"classification 368/192/128": classification, "detection 784/560/336": detection}
GPU_CASES: dict[str, Case] = {
    f"detection {f} 1568/1120/672": partial(detection, f, (1568, 1120, 672)) for f in ("TSB", "SBL")
}
"""The paper's size, on a GPU: half of it takes a core half a minute."""


class Step:
    """One network; `run` takes a training step in a form."""

    def __init__(self, row: ExperimentSpec, inputs: tuple[object, ...]) -> None:
        torch.manual_seed(0)
        images = inputs[0]
        assert isinstance(images, Tensor)
        self.device, self.inputs = images.device, inputs
        self.model = make_comparable(build_model(row.model, pretrained=False)).train().to(self.device)
        # a rate of nearly zero: the network stays the same through the rounds
        self.optimizers = {
            fused: torch.optim.AdamW(self.model.parameters(), lr=1e-12, weight_decay=0.05, fused=fused)
            for fused in (False, True)
        }

    def loss(self, form: Form) -> Tensor:
        """Sum of the losses."""
        torch.manual_seed(1)  # the samplers of proposals
        with form.autocast(self.device):
            losses = self.model(*self.inputs)
        return torch.stack(list(losses.values())).sum()

    def flops(self) -> int:
        """FLOPs of the forward and backward pass, 2 for a multiply-add, in the form that does no padded work."""
        form = forms()[PLAIN_FP32]
        form.apply(self.model)
        with FlopCounterMode(display=False) as counter:
            self.loss(form).backward()
        nn.Module.zero_grad(self.model)
        return counter.get_total_flops()

    def run(self, form: Form) -> Callable[[], float]:
        """A training step in this form; gives its loss."""

        def step() -> float:
            form.apply(self.model)
            loss = self.loss(form)
            loss.backward()
            self.optimizers[form.fused_optimizer].step()
            nn.Module.zero_grad(self.model)
            return loss.item()

        return step


def chosen_forms(device: torch.device, *, brief: bool, compiled: bool) -> dict[str, Form]:
    """Those that a case is timed in, reference first."""
    found = forms()
    if brief:
        names = list(found)
        found = {name: found[name] for name in (names[0], PLAIN_FP32, names[-1])}
    elif device.type == "cuda":
        found |= gpu_forms()
    return found | (compiled_forms() if compiled else {})


def measure(
    case: str, threads: int, rounds: int, *, brief: bool = False, compiled: bool = False, minutes: float = 10
) -> list[timing.Row]:
    step = Step(*(CASES | GPU_CASES)[case]())
    chosen = chosen_forms(step.device, brief=brief, compiled=compiled)
    methods = {name: step.run(form) for name, form in chosen.items()}
    losses: dict[str, float] = {}
    calls = {name: partial(_note, losses, name, method) for name, method in methods.items()}
    peak = _peaks(step.device)
    flops, seconds = step.flops(), timing.interleaved(calls, rounds=rounds, where=step.device, minutes=minutes)
    peak = {dtype: max(rate, peak[dtype]) for dtype, rate in _peaks(step.device).items()}
    first = next(iter(methods))
    return [
        {
            "step": name,
            "case": case,
            "threads": threads,
            "ms": 1000 * seconds[name],
            "times as fast": seconds[first] / seconds[name],
            "TFLOP/s": flops / seconds[name] / 1e12,
            "MFU": flops / seconds[name] / peak[torch.bfloat16 if form.bf16 else torch.float32],
            "difference": abs(losses[name] / losses[first] - 1),
        }
        for name, form in chosen.items()
    ]


def _peaks(device: torch.device) -> dict[torch.dtype, float]:
    return {dtype: timing.product_rate(device, dtype) for dtype in (torch.float32, torch.bfloat16)}


def _note(losses: dict[str, float], name: str, method: Callable[[], float]) -> None:
    losses[name] = method()


@dataclass
class Options(timing.CaseOptions):
    """What this benchmark is told."""

    rounds: int = 5
    """Turns of each method."""
    threads: tuple[int, ...] = (1,)
    """Threads of PyTorch, one after the other."""
    brief: bool = False
    """The reference, all on in fp32, and all on in bf16 only."""
    compiled: bool = False
    """Compiled blocks on a CPU, too: compiling takes minutes of --minutes."""
    minutes: float = 10.0
    """Wall time of a case, about."""


def main() -> None:
    """Measures what was asked for and prints a table."""
    given = timing.given(Options, __doc__)
    rows: list[timing.Row] = []
    cases = [*CASES, *(GPU_CASES if timing.device().type == "cuda" else {})]
    for threads in given.threads:
        torch.set_num_threads(threads)
        for case in timing.chosen(cases, given.only):
            timing.progress(f"{case}, {threads} threads")
            rows += measure(
                case, threads, given.rounds, brief=given.brief, compiled=given.compiled, minutes=given.minutes
            )
    timing.report(rows, as_json=given.json)


if __name__ == "__main__":
    main()
