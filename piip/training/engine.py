"""How a step is taken: DeepSpeed (ZeRO 0-3) or plain DDP behind one interface. The one file that knows DeepSpeed.

Both run fp32 weights, with bf16 by autocast. State goes in and out as plain tensors (see checkpoint.py): DeepSpeed's own
optimizer files hold pickled classes.
"""

import contextlib
import copy
import logging
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import override

from piip.spec import ExperimentSpec
from piip.training.checkpoint import Checkpoint, CheckpointError, load_model


class Engine:
    """Forward, backward, step, state; DDP flavour. `ZeroEngine` is the DeepSpeed one."""

    name = "ddp"

    def __init__(
        self,
        spec: ExperimentSpec,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        micro_batch: int,
        accumulate: int,
    ):
        """Wrap `model`, which already sits on its device. Collective: all ranks call it."""
        self.module, self.optimizer, self.accumulate = model, optimizer, accumulate
        self.device = next(model.parameters()).device
        self._clip = spec.optim.clip_norm
        self._bf16 = spec.train.precision == "bf16"
        self._cuda_graphs = spec.speed.compile == "cuda_graphs"
        self._micro_step = 0
        self._wrap(spec, micro_batch)

    def _wrap(self, spec: ExperimentSpec, micro_batch: int) -> None:
        del spec, micro_batch
        self._model: Any = nn.parallel.DistributedDataParallel(self.module, broadcast_buffers=False)

    def __call__(self, *inputs: Any) -> dict[str, Tensor]:
        """Losses of one micro batch, under autocast where the spec says bf16."""
        self._begin()
        with self._exchange(), torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            return self._model(*inputs)

    def _begin(self) -> None:
        """A micro batch. With a step's first one, captured graphs may write over what they gave before: gradients are gone by then."""
        if self._cuda_graphs and self._micro_step % self.accumulate == 0:
            torch.compiler.cudagraph_mark_step_begin()
        self._micro_step += 1

    def _exchange(self) -> Any:
        """Gradients are averaged over ranks in the backward pass of a step's last micro batch only; DDP decides in forward."""
        last = self._micro_step % self.accumulate == 0
        return contextlib.nullcontext() if last else self._model.no_sync()

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of the mean over a step's micro batches."""
        (loss / self.accumulate).backward()

    def step(self) -> None:
        """Clip, update, zero the gradients."""
        if self._clip:
            nn.utils.clip_grad_norm_(self.module.parameters(), self._clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def model_state(self) -> dict[str, Tensor]:
        """Full weights, on every rank. Collective."""
        return self.module.state_dict()

    def eval_model(self) -> nn.Module:
        """A model whose forward passes need no other rank. Collective."""
        return self.module

    def optimizer_state(self) -> dict[str, Tensor]:
        """This rank's optimizer tensors, by parameter name."""
        if dist.get_rank() != 0:
            return {}  # every rank holds the same; rank 0's copy is enough
        names: dict[Tensor, str] = {p: n for n, p in self.module.named_parameters()}
        return {f"{names[p]}:{k}": v for p, state in self.optimizer.state.items() for k, v in state.items()}

    def load(self, checkpoint: Checkpoint) -> None:
        """Take weights and optimizer from a verified checkpoint.

        Raises:
            CheckpointError: It is of another model or another engine.
        """
        self._check_engine(checkpoint)
        load_model(self.module, checkpoint)
        state, parameters = checkpoint.state(0), dict(self.module.named_parameters())
        for key, value in state.items():
            name, field = key.rsplit(":", 1)
            self.optimizer.state[parameters[name]][field] = value.to(parameters[name].device)

    def _check_engine(self, checkpoint: Checkpoint) -> None:
        written = checkpoint.manifest
        sharded = {"deepspeed-zero1", "deepspeed-zero2", "deepspeed-zero3"} & {written.engine, self.name}
        if sharded and (written.engine, written.world_size) != (self.name, dist.get_world_size()):
            raise CheckpointError(
                f"{checkpoint.folder} holds the optimizer shards of {written.world_size} x {written.engine}, this run is "
                f"{dist.get_world_size()} x {self.name}. Resume with the same workers and ZeRO stage, or start anew with --fresh."
            )


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
            load_model(self.module, checkpoint)
        else:
            import deepspeed

            with deepspeed.zero.GatheredParameters(list(self.module.parameters()), modifier_rank=0):
                if dist.get_rank() == 0:
                    load_model(self.module, checkpoint)
        saved, state = checkpoint.state(dist.get_rank()), self._model.optimizer.optimizer.state
        with torch.no_grad():
            for index, shard in enumerate(self._shards()):
                shard.copy_(saved[f"{index}:weights"])
                fields = [k.split(":")[1] for k in saved if k.startswith(f"{index}:") and not k.endswith(":weights")]
                state[shard] = {f: saved[f"{index}:{f}"].to(shard.device) for f in fields}


def build_engine(
    spec: ExperimentSpec, model: nn.Module, optimizer: torch.optim.Optimizer, *, micro_batch: int, accumulate: int
) -> Engine:
    """The engine the spec names. Needs an initialised process group (Ray Train makes one)."""
    kind = ZeroEngine if spec.train.engine == "deepspeed" else Engine
    return kind(spec, model, optimizer, micro_batch=micro_batch, accumulate=accumulate)


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
