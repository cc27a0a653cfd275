"""Steps by plain DDP; what every engine does.

Weights are fp32, bf16 comes by autocast. State goes in and out as plain tensors (see checkpoint.py).
"""

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from piip.spec import ExperimentSpec
from piip.training.averaging import Average
from piip.training.checkpoint import Checkpoint, load_model
from piip.training.manifest import CheckpointError


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
        train = spec.train
        self.average = Average(model, decay=train.ema, warmup=train.ema_warmup) if train.ema else None
        """The running mean of the weights, where the spec wants one; the loop tells it of steps."""
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
        self._load_weights(checkpoint)
        state, parameters = checkpoint.state(0), dict(self.module.named_parameters())
        for key, value in state.items():
            name, field = key.rsplit(":", 1)
            self.optimizer.state[parameters[name]][field] = value.to(parameters[name].device)

    def _load_weights(self, checkpoint: Checkpoint) -> None:
        load_model(self.module, checkpoint, learning=True)
        if self.average:
            self.average.load(checkpoint.model())

    def scored(self) -> AbstractContextManager[None]:
        """What evaluation is inside of: the model has the weights that are scored and saved."""
        return self.average.in_place() if self.average else contextlib.nullcontext()

    def _check_engine(self, checkpoint: Checkpoint) -> None:
        written = checkpoint.manifest
        sharded = {"deepspeed-zero1", "deepspeed-zero2", "deepspeed-zero3"} & {written.engine, self.name}
        if sharded and (written.engine, written.world_size) != (self.name, dist.get_world_size()):
            raise CheckpointError(
                f"{checkpoint.folder} holds the optimizer shards of {written.world_size} x {written.engine}, this run is "
                f"{dist.get_world_size()} x {self.name}. Resume with the same workers and ZeRO stage, or start anew with --fresh."
            )
