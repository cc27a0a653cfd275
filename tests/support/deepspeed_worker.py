"""One rank of a DeepSpeed run that saves a checkpoint: `python deepspeed_worker.py RANK WORLD_SIZE STAGE BF16 tensors.pt FOLDER`.

The module has the tensors of a file under their names. Before saving, the fp32 weights that ZeRO keeps are multiplied by NUDGE, so that
they can be told from the module's.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

NUDGE = 1 + 2**-12


def module_of(tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A tree of modules that holds them as parameters."""
    root = torch.nn.Module()
    for name, value in tensors.items():
        *path, leaf = name.split(".")
        place = root
        for part in path:
            if part not in place._modules:
                place.add_module(part, torch.nn.Module())
            place = place._modules[part]
        # DeepSpeed cannot broadcast tensors without a dimension
        place.register_parameter(leaf, torch.nn.Parameter(value.reshape(value.shape or (1,))))
    return root


def main(rank: int, world_size: int, stage: int, bf16: bool, tensors: Path, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    store = f"file://{folder}.store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = {}  # or it compiles probes
    deepspeed.init_distributed(verbose=False)
    module = module_of(torch.load(tensors))
    vectors = [p for p in module.parameters() if p.ndim == 1]
    others = [p for p in module.parameters() if p.ndim != 1]
    optimizer = torch.optim.AdamW([{"params": others}, {"params": vectors, "weight_decay": 0.0}], lr=1e-3)
    config = {
        "train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9, "bf16": {"enabled": bf16},
    }  # fmt: skip
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config, dist_init_required=False)
    if stage:
        zero = engine.optimizer
        with torch.no_grad():
            for shard in zero.single_partition_of_fp32_groups if stage < 3 else zero.fp32_partitioned_groups_flat:
                shard.mul_(NUDGE)
    engine.save_checkpoint(str(folder))
    dist.destroy_process_group()


if __name__ == "__main__":
    rank, world_size, stage, bf16 = map(int, sys.argv[1:5])
    main(rank, world_size, stage, bool(bf16), Path(sys.argv[5]), Path(sys.argv[6]))
