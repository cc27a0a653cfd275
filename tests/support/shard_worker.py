"""The ranks of test_sharding.py, one after another: `python shard_worker.py ROW ZERO_STAGE WORLD_SIZE RANK...`.

Our engine and DeepSpeed as they are, over tensors with shapes and no values and a process group without other processes: what
DeepSpeed allocates is seen, and takes no memory. Prints {"rank", "weights", "moments", "parameters"}, in elements, a line a rank.
"""

import json
import os
import sys
import warnings

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from piip.catalogue.rows import find_row
from piip.counting.meta import on_meta
from piip.models import build_model
from piip.spec import ExperimentSpec
from piip.training.engines import ZeroEngine, build_engine
from piip.training.optim import build_optimizer


def shard(spec: ExperimentSpec, rank: int, world_size: int) -> dict[str, int]:
    """What one rank keeps of the weights it updates and of their moments."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(world_size)}
    dist.init_process_group("fake", rank=rank, world_size=world_size, store=FakeStore())
    with on_meta():
        model = build_model(spec.model, pretrained=False).train()
    parameters = sum(p.numel() for p in model.parameters())
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model.to_empty(device="cpu")
        model.to = lambda *_: model  # it is there; and tensors without values cannot be swapped
        distances = {f"backbone.{name}": distance for name, distance in model.backbone.layer_ids().items()}
        optimizer = build_optimizer(model, spec.optim, distances)
        engine = build_engine(spec, model, optimizer, micro_batch=1, accumulate=1)
        assert isinstance(engine, ZeroEngine)
        take_a_step(engine)
        state = engine.optimizer_state()
        kept = {"weights": 0, "moments": 0}
        for name, tensor in state.items():
            if tensor.numel() > 1:
                kept["weights" if name.endswith(":weights") else "moments"] += tensor.numel()
    return {"rank": rank, "parameters": parameters, **kept}


def take_a_step(engine: ZeroEngine) -> None:
    """Adam makes its moments in the first one."""
    optimizer, flat = engine._model.optimizer.optimizer, engine._shards()
    for index, group in enumerate(optimizer.param_groups):
        group["params"] = [flat[index]]  # as DeepSpeed does in a step of ZeRO 3; in ZeRO 1 and 2 they are there
        flat[index].grad = torch.empty_like(flat[index])
    optimizer.step()


def main(row: str, stage: int, world_size: int, ranks: list[int]) -> None:
    spec = find_row(row).override({"train.zero_stage": stage, "train.batch_size": world_size})
    for rank in ranks:
        # a process of its own: DeepSpeed knows one group of processes in its life
        child = os.fork()
        if not child:
            print(json.dumps(shard(spec, rank, world_size)), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"rank {rank} failed")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), [int(rank) for rank in sys.argv[4:]])
