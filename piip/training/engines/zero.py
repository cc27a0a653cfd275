"""Steps by DeepSpeed, ZeRO 0-3: the one file that knows it.

State goes in and out as plain tensors, as with DDP: DeepSpeed's own optimizer files hold pickled classes.
"""

import copy
import logging
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import override

from piip.spec import ExperimentSpec
from piip.training.checkpoint import Checkpoint, load_model
from piip.training.engines.ddp import Engine


class ZeroEngine(Engine):
    """DeepSpeed's engine, ZeRO stage 0-3, over a torch optimizer (its own ones compile for a minute on a CPU)."""

    @override
    def _wrap(self, spec: ExperimentSpec, micro_batch: int) -> None:
        deepspeed = _import_deepspeed()
        self.stage = spec.train.zero_stage
        # ZeRO-3 gathers weights inside forward, on all ranks together; ranks evaluate different images, so they need a copy
        self._whole = copy.deepcopy(self.module) if self.stage == 3 else self.module
        self.name = f"deepspeed-zero{self.stage}"
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": self.accumulate,
            "zero_optimization": {"stage": self.stage},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
        }
        if self._clip:
            config["gradient_clipping"] = self._clip
        if self._bf16:
            # DeepSpeed would send weights (ZeRO-3) and gradients of Linear and Conv2d between workers in bf16: then the heads, which
            # run in fp32, and the saved weights are rounded, and the loss is another than on one worker. No module: all travel in fp32
            config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
        self._model, *_ = deepspeed.initialize(
            model=self.module, optimizer=self.optimizer, config=config, dist_init_required=False
        )
        if self.stage == 0 and dist.get_world_size() == 1:
            # it would copy all gradients into one buffer and back, for nobody
            self._model.enable_backward_allreduce = False

    @override
    def __call__(self, *inputs: Any) -> dict[str, Tensor]:
        self._begin()
        return self._model(*inputs)  # under DeepSpeed's torch_autocast

    @override
    def backward(self, loss: Tensor) -> None:
        self._model.backward(loss)
        if self._micro_step % self.accumulate:
            self._model.step()  # counts the micro step; DeepSpeed updates at the boundary only

    @override
    def step(self) -> None:
        self._model.step()

    @override
    def model_state(self) -> dict[str, Tensor]:
        if self.stage < 3:
            return self.module.state_dict()
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self.module.parameters())):
            return {k: v.detach().clone() for k, v in self.module.state_dict().items()}

    @override
    def eval_model(self) -> nn.Module:
        if self.stage == 3:
            self._whole.load_state_dict(self.model_state())
        return self._whole

    def _shards(self) -> list[Tensor]:
        """This rank's flat fp32 weights, one tensor per parameter group; the optimizer's state hangs on them."""
        zero = self._model.optimizer
        return zero.single_partition_of_fp32_groups if self.stage < 3 else zero.fp32_partitioned_groups_flat

    @override
    def optimizer_state(self) -> dict[str, Tensor]:
        if self.stage == 0:
            return super().optimizer_state()
        state = self._model.optimizer.optimizer.state
        shards: dict[str, Tensor] = {}
        for index, shard in enumerate(self._shards()):
            shards[f"{index}:weights"] = shard
            shards |= {f"{index}:{k}": v for k, v in state.get(shard, {}).items()}
        return shards

    @override
    def load(self, checkpoint: Checkpoint) -> None:
        if self.stage == 0:
            super().load(checkpoint)
            return
        self._check_engine(checkpoint)
        if self.stage < 3:
            self._load_weights(checkpoint)
        else:
            import deepspeed

            with deepspeed.zero.GatheredParameters(list(self.module.parameters()), modifier_rank=0):
                if dist.get_rank() == 0:
                    load_model(self.module, checkpoint)
            for buffer in self.module.buffers():  # what is gathered is parameters alone
                dist.broadcast(buffer, src=0)
        saved, state = checkpoint.state(dist.get_rank()), self._model.optimizer.optimizer.state
        with torch.no_grad():
            for index, shard in enumerate(self._shards()):
                shard.copy_(saved[f"{index}:weights"])
                fields = [k.split(":")[1] for k in saved if k.startswith(f"{index}:") and not k.endswith(":weights")]
                state[shard] = {f: saved[f"{index}:{f}"].to(shard.device) for f in fields}


def _import_deepspeed() -> Any:
    """DeepSpeed, told what it would otherwise find out the slow way (facts: 79 s of JIT build for a shared-memory op)."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    import deepspeed
    import deepspeed.ops

    # reading what is there would compile probes and print their errors; comm/torch.py, the one reader, asks for deepspeed_shm_comm
    deepspeed.ops.__compatible_ops__ = {}  # pyright: ignore[reportAttributeAccessIssue]
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.init_distributed(verbose=False)
    return deepspeed
