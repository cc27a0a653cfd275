"""How much memory a training step will take, before anything is trained: one step is run on tensors without data."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from piip.counting.meta import on_meta
from piip.models import build_model
from piip.models.network import Network
from piip.spec import ModelSpec, TrainSpec

FP32 = 4
"""Bytes; weights, gradients and Adam's two moments are fp32, under bf16 autocast too."""

ZERO_BUCKET = 5e8 * FP32
"""Bytes: DeepSpeed's default reduce_bucket_size, allocated in every backward pass of ZeRO 1-3 whatever the network's size."""

ZERO3_LIVE = 1e9 * FP32
"""Bytes: DeepSpeed's default stage3_max_live_parameters, gathered from other workers at a time."""


@dataclass(frozen=True)
class Memory:
    """What one worker holds at the worst moment of a training step, in 1e9 bytes; Python and libraries come on top."""

    weights_gb: float
    gradients_gb: float
    optimizer_gb: float
    """Adam's moments and ZeRO's own copy of the weights."""
    activations_gb: float
    """The most that forward and backward pass hold at once, temporaries included."""
    buffers_gb: float
    """What DDP or ZeRO send gradients and weights through."""
    peak_gb: float
    """Less than the sum: gradients grow while activations go."""


def training_memory(spec: ModelSpec, train: TrainSpec, height: int, width: int, *, workers: int = 1) -> Memory:
    """Predicts the peak of one worker; seconds, and no memory to speak of.

    Forward and backward pass run on tensors that have shapes and no data, so every saved activation and every temporary is counted,
    at its size and for its lifetime. The head's `probe` stands for its losses; anchors' overlaps, NMS and the data itself are left out,
    and so is what an allocator wastes (a few per cent on a GPU).

    Args:
        spec: The model.
        train: Micro batch, precision, engine and ZeRO stage.
        height: Of the padded input in pixels.
        width: Of the padded input in pixels.
        workers: That share the batch and, from ZeRO 1 on, the optimizer's state.

    Raises:
        ValueError: They do not divide the batch.
    """
    micro_batch, accumulate = train.split(workers)
    stage = train.zero_stage if train.engine == "deepspeed" else 0
    step = _simulate(
        spec.model_dump_json(), micro_batch, height, width, freeze=train.freeze, bf16=train.precision == "bf16"
    )
    whole, size = step.parameters * FP32, step.learned * FP32
    shard = size / workers
    weights = shard + whole if stage == 3 else whole  # with ZeRO 3 our engine keeps a whole copy to evaluate with
    weights += whole if train.ema else 0.0
    gradients = shard if stage >= 2 else size
    optimizer = 2 * size if stage == 0 else 3 * shard
    buffers = 0.0
    if stage:
        buffers = ZERO_BUCKET + (min(size, ZERO3_LIVE) if stage == 3 else 0)
    elif train.engine == "ddp" or workers > 1:
        buffers = size if train.engine == "ddp" else min(size, ZERO_BUCKET)
    peak = step.peak_with(gradients / size, gradients if accumulate > 1 else 0.0)
    # AdamW in one pass needs the gradients and no temporary; ZeRO lays its share of them out once more
    update = gradients + (shard if stage else 0.0)
    total = weights + optimizer + buffers + max(peak, update)
    parts = (weights, gradients, optimizer, step.peak_with(0.0), buffers, total)
    return Memory(*(part / 1e9 for part in parts))


@lru_cache(maxsize=16)
def _simulate(
    model_spec: str, micro_batch: int, height: int, width: int, *, freeze: tuple[str, ...], bf16: bool
) -> "_Live":
    """Forward and backward pass without data, watched. The spec comes as JSON, which is a key of the cache."""
    spec = ModelSpec.model_validate_json(model_spec)
    with on_meta():
        model = build_model(spec, pretrained=False)
        model.freeze(freeze)
        model.train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model.to_empty(device="cpu")
        live = _Live(model)
        for parameter in filter(lambda p: p.requires_grad, model.parameters()):
            parameter.register_post_accumulate_grad_hook(live.gradient)
        with live:
            images = torch.empty(micro_batch, 3, height, width)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                outputs = _outputs(model, images)
            loss = sum(out.float().mean() for out in outputs if out.requires_grad)
            del outputs
            assert isinstance(loss, Tensor)
            loss.backward()
    return live


def _outputs(model: Network, images: Tensor) -> list[Tensor]:
    """What the losses are made of: what the head's probe computes."""
    features = model.backbone(images)
    head: Any = model.head
    return [out for call in head.probe(features).values() for out in call()]


class _Live(TorchDispatchMode):
    """Follows the bytes of all storages made under it, from the operator that makes them to their end; not the model's own.

    Gradients of parameters leave the count as soon as they are complete, and come back by the share that a worker keeps.
    """

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.parameters = sum(p.numel() for p in model.parameters())
        self.learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
        # an operator may give a view of a weight
        self._known = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        self._now = self._gradients = 0
        self._moments: list[tuple[int, int]] = []

    def peak_with(self, share: float, before: float = 0.0) -> float:
        """The most bytes at once: activations, and `share` of the gradients so far; or `before` where they are there already."""
        return max(now + max(share * gradients, before) for now, gradients in self._moments)

    def gradient(self, parameter: Tensor) -> None:
        """The gradient of `parameter` is complete."""
        assert parameter.grad is not None
        self._gradients += parameter.grad.numel() * parameter.grad.element_size()
        parameter.grad = None
        self._moments.append((self._now, self._gradients))

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._now += size
        self._moments.append((self._now, self._gradients))
        weakref.finalize(storage, self._end, key, size)

    def _end(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size
