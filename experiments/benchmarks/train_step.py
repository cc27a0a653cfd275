"""What does a whole training step gain, switch by switch, over the official code's way of computing it (bars in issue 4)?

    python experiments/benchmarks/train_step.py                      # classification and half-size detection, one thread
    python experiments/benchmarks/train_step.py --only detection --rounds 5 --json

Networks are TSB with random weights, batch 2: classification at 368/192/128, Mask R-CNN at half of 1568/1120/672. The reference does
what the official code does: interactions wholly in fp32 over grid_sample, attention by two matrix products and a softmax, padded
windows, fp32. Every line adds one switch to the line above; `plain fp32` lines keep every number to rounding. Each step is forward,
backward and AdamW; `difference` is that of the loss from the reference's, as a part of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import timing
import torch
from timm.layers import Attention
from torch import Tensor, nn

from piip.models import build_model
from piip.models.interaction import DeformableCrossAttention
from piip.models.speed import set_speed
from piip.presets import classifier_20ep, mask_rcnn_1x, piip
from piip.spec import ExperimentSpec, SpeedSpec

OFFICIAL = SpeedSpec(windows="padded", interactions="fp32")


@dataclass(frozen=True)
class Form:
    """A way to compute the same network."""

    speed: SpeedSpec = OFFICIAL
    kernel: str = "reference"
    sdpa: bool = False
    fused_optimizer: bool = False
    bf16: bool = False


def forms() -> dict[str, Form]:
    """Cumulative, reference first."""
    form = Form()
    found = {"official-equivalent fp32": form}
    for name, change in (
        ("+ compiled deformable attention", {"kernel": "auto"}),
        ("+ SDPA", {"sdpa": True}),
        ("+ exact windows", {"speed": OFFICIAL.override({"windows": "exact"})}),
        ("+ one-pass AdamW (plain fp32, all on)", {"fused_optimizer": True}),
        ("+ bf16, interactions fp32", {"bf16": True}),
        ("+ bf16 in interactions", {"speed": SpeedSpec()}),
    ):
        form = replace(form, **change)
        found[name] = form
    return found


def classification() -> tuple[ExperimentSpec, tuple[object, ...]]:
    """TSB 368/192/128 and two images of labels."""
    row = classifier_20ep(piip("TSB", (368, 192, 128)))
    random = torch.Generator().manual_seed(0)
    return row, (torch.randn(2, 3, 368, 368, generator=random), torch.tensor([3, 500]))


def detection() -> tuple[ExperimentSpec, tuple[object, ...]]:
    """TSB 784/560/336, images padded to 784 x 560, five objects each."""
    row = mask_rcnn_1x(piip("TSB", (784, 560, 336)))
    random = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 560, 784, generator=random)
    corner = torch.rand(2, 5, 2, generator=random) * 300
    boxes = torch.cat([corner, corner + 40 + torch.rand(2, 5, 2, generator=random) * 150], dim=2)
    targets = []
    for box in boxes:
        masks = torch.zeros(5, 560, 784, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, box.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        targets.append({"boxes": box, "labels": torch.arange(1, 6), "masks": masks})
    return row, (images, [(560, 784)] * 2, targets)


CASES = {"classification 368/192/128": classification, "detection 784/560/336": detection}


class Step:
    """One network; `run` takes a training step in a form."""

    def __init__(self, row: ExperimentSpec, inputs: tuple[object, ...]) -> None:
        torch.manual_seed(0)
        # drop path and checkpointing off: forms must see the same numbers, and a recomputed block is timed twice
        model = row.model.override(
            {
                f"backbone.branches.{i}.{name}": value
                for i in range(3)
                for name, value in (("drop_path", 0.0), ("checkpointing", False))
            }
            | {"backbone.interaction.drop_path": 0.0}
        )
        self.model, self.inputs = build_model(model, pretrained=False).train(), inputs
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name.endswith(("ca_gamma", "cffn_gamma")):
                    parameter.fill_(0.1)  # else interactions do nothing
        # a rate of nearly zero: the network stays the same through the rounds
        self.optimizers = {
            fused: torch.optim.AdamW(self.model.parameters(), lr=1e-12, weight_decay=0.05, fused=fused)
            for fused in (False, True)
        }

    def set(self, form: Form) -> None:
        """Makes the network compute in this form."""
        set_speed(self.model, form.speed)
        for module in self.model.modules():
            if isinstance(module, Attention):
                module.fused_attn = form.sdpa  # type: ignore[misc]
            elif isinstance(module, DeformableCrossAttention):
                module.kernel = form.kernel

    def loss(self, form: Form) -> Tensor:
        """Sum of the losses."""
        torch.manual_seed(1)  # the samplers of proposals
        with torch.autocast("cpu", torch.bfloat16, enabled=form.bf16):
            losses = self.model(*self.inputs)
        return torch.stack(list(losses.values())).sum()

    def run(self, form: Form) -> Callable[[], float]:
        """A training step in this form; gives its loss."""

        def step() -> float:
            self.set(form)
            loss = self.loss(form)
            loss.backward()
            self.optimizers[form.fused_optimizer].step()
            nn.Module.zero_grad(self.model)
            return loss.item()

        return step


def measure(case: str, threads: int, rounds: int) -> list[timing.Row]:
    step = Step(*CASES[case]())
    methods = {name: step.run(form) for name, form in forms().items()}
    losses = {name: method() for name, method in methods.items()}
    seconds = timing.interleaved(methods, rounds=rounds)
    first = next(iter(methods))
    return [
        {
            "step": name,
            "case": case,
            "threads": threads,
            "ms": 1000 * seconds[name],
            "times as fast": seconds[first] / seconds[name],
            "difference": abs(losses[name] / losses[first] - 1),
        }
        for name in methods
    ]


def main() -> None:
    options = timing.parser(__doc__ or "")
    options.set_defaults(threads=[1], rounds=5)
    given = options.parse_args()
    rows: list[timing.Row] = []
    for threads in given.threads:
        torch.set_num_threads(threads)
        for case in timing.chosen(list(CASES), given.only):
            timing.progress(f"{case}, {threads} threads")
            rows += measure(case, threads, given.rounds)
    timing.report(rows, as_json=given.json)


if __name__ == "__main__":
    main()
