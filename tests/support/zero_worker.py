"""One of the worker processes of test_zero.py: `python zero_worker.py RANK WORLD_SIZE plan.json`.

For each configuration it trains without a stop, then goes on from a copy of the checkpoint half way as another trial.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from piip import home
from piip.data.locating import locate
from piip.record.runs import RunRecord, create_run
from piip.record.trial import Trial
from piip.spec import CocoSpec, ExperimentSpec
from piip.training.run import run


def main(rank: int, world_size: int, plan: dict) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, init_method=f"file://{plan['store']}", rank=rank, world_size=world_size)
    sources = {split: locate(CocoSpec(name="demo"), split) for split in ("train", "val")}
    for key, spec in plan["specs"].items():
        for name in (f"straight-{key}", f"resumed-{key}"):
            if rank == 0:
                create_run(RunRecord(name, name, "tests", None))
                if name.startswith("resumed"):
                    middle = f"step_{plan['stop']:08d}"
                    shutil.copytree(home.checkpoint_dir(f"straight-{key}") / middle, home.checkpoint_dir(name) / middle)
            dist.barrier()
            trial = Trial(ExperimentSpec.model_validate(spec), name, sources)
            run(trial, rank=rank, world_size=world_size, report=lambda metrics: None)
            dist.barrier()
        if rank == 0:
            print(key, "done", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text()))
