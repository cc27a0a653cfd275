"""How a step is taken: DeepSpeed (ZeRO 0-3) or plain DDP behind one interface."""

import torch
from torch import nn

from piip.spec import ExperimentSpec
from piip.training.engines.ddp import Engine
from piip.training.engines.zero import ZeroEngine


def build_engine(
    spec: ExperimentSpec, model: nn.Module, optimizer: torch.optim.Optimizer, *, micro_batch: int, accumulate: int
) -> Engine:
    """The engine the spec names. Needs an initialised process group (Ray Train makes one)."""
    kind = ZeroEngine if spec.train.engine == "deepspeed" else Engine
    return kind(spec, model, optimizer, micro_batch=micro_batch, accumulate=accumulate)
