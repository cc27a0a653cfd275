"""One point of growth.py: forward and backward pass of a network in processes made for it, timed, and their memory.

PYTHONPATH=. python experiments/benchmarks/growth_point.py --batch 2                    # 2 images of 448 x 320, TSB
PYTHONPATH=. python experiments/benchmarks/growth_point.py --batch 2 --checkpointing    # blocks computed again backward
"""

import json
import multiprocessing
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from forms import ends, make_comparable
from torch import nn
from train_step import detection_inputs

from piip.console import parse
from piip.counting.memory import training_memory
from piip.models import build_model
from piip.models.branches.vit import Branch
from piip.presets import each_branch, mask_rcnn_1x, mask_rcnn_pico, pico, piip
from piip.spec import ExperimentSpec, InteractionSpec


@dataclass(frozen=True)
class Point:
    """One measurement."""

    letters: str = "TSB"
    side: int = 448
    batch: int = 1
    workers: int = 1
    ddp: bool = False
    pico: bool = False
    """The demo's small networks instead, for a quick look."""
    checkpointing: bool = False
    """Blocks are computed again in the backward pass."""

    @property
    def row(self) -> ExperimentSpec:
        """The network; bf16 as our fastest form."""
        sides = [round(self.side * part / 7) for part in (7, 5, 3, 2)[: len(self.letters)]]
        if self.pico:
            row = mask_rcnn_pico(pico(self.letters, sides, pretrained=False), steps=1)
        else:
            backbone = piip(self.letters, sides, interaction=InteractionSpec(drop_path=0.0))
            row = mask_rcnn_1x(each_branch(backbone, {"drop_path": 0.0}))
        engine = "ddp" if self.ddp else "deepspeed"
        changes = {"batch_size": self.batch * self.workers, "precision": "bf16", "engine": engine, "zero_stage": 0}
        again = {f"model.backbone.branches.{i}.checkpointing": self.checkpointing for i in range(len(self.letters))}
        return row.override({f"train.{name}": value for name, value in changes.items()} | again)

    @property
    def predicted_gb(self) -> float:
        """Without the optimizer, which no point here has."""
        height = round(self.side * 5 / 7)
        memory = training_memory(self.row.model, self.row.train, height, self.side, workers=self.workers)
        return memory.peak_gb - memory.optimizer_gb


def measure(point: Point, most_seconds: float) -> dict[str, float]:
    """`seconds` of a forward and backward pass and `gb` at the worst moment, in processes made for it."""
    multiprocessing.set_forkserver_preload(["piip.models"])  # a process then starts without seconds of imports
    with tempfile.TemporaryDirectory() as folder:
        given = (point, most_seconds, folder)
        torch.multiprocessing.start_processes(work, given, nprocs=point.workers, start_method="forkserver")
        return json.loads((Path(folder) / "result.json").read_text())


def work(rank: int, point: Point, most_seconds: float, folder: str) -> None:
    """One worker; the first writes the result."""
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    before = _resident("VmRSS")
    torch.manual_seed(0)
    form = ends()["ours bf16"]
    model: nn.Module = make_comparable(build_model(point.row.model, pretrained=False)).train().to(device)
    form.apply(model)
    for module in model.modules():
        if isinstance(module, Branch):
            module.checkpointing = point.checkpointing
    inputs = detection_inputs(round(point.side * 5 / 7), point.side, point.batch, device)
    if point.ddp:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"file://{folder}/meeting",
            rank=rank,
            world_size=point.workers,
        )
        model = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)

    def step() -> float:
        start = _clock(device, wall=point.ddp)
        with form.autocast(device):
            losses = model(*inputs)
        torch.stack(list(losses.values())).sum().backward()
        model.zero_grad()
        return _clock(device, wall=point.ddp) - start

    first = step()  # warms up
    turns = max(1, min(7, int(most_seconds / 3 / max(first, 1e-3))))
    if point.ddp:
        shared = torch.tensor(turns, device=device)  # they wait for each other
        dist.all_reduce(shared, dist.ReduceOp.MIN)
        turns = int(shared)
    taken = [step() for _ in range(turns)]
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else _resident("VmHWM") - before
    if rank == 0:
        found = {"seconds": statistics.median(taken), "gb": peak / 1e9}
        (Path(folder) / "result.json").write_text(json.dumps(found))
    if point.ddp:
        dist.destroy_process_group()


def _clock(device: torch.device, *, wall: bool) -> float:
    """CPU time where one thread works and waits for nobody."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() if wall or device.type == "cuda" else time.process_time()


def _resident(field: str) -> int:
    """Bytes: `VmRSS` now, `VmHWM` at most so far. Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


@dataclass
class Options:
    """What is measured."""

    side: int = 448
    """Pixels of the long side; 5/7 of it is the other."""
    batch: int = 1
    """Images."""
    pico: bool = False
    """The demo's small networks."""
    checkpointing: bool = False
    """Blocks' activations are computed again backward."""
    most_seconds: float = 60.0
    """Of all passes together, about."""


def main() -> None:
    """Measures one point and prints it as JSON."""
    given = asdict(parse(Options, prog=None, description=__doc__, arguments=None))
    most_seconds = given.pop("most_seconds")
    point = Point(**given)
    print(json.dumps(given | measure(point, most_seconds) | {"predicted_gb": point.predicted_gb}))


if __name__ == "__main__":
    main()
