"""Data, optimizer, schedule, engine, speed: how a model is trained."""

from typing import Literal, Self

from pydantic import Field, model_validator

from piip.spec.base import Spec


class CocoSpec(Spec):
    """COCO-format detection data and how an image is prepared. Where the files are is not in the spec (see piip/data)."""

    kind: Literal["coco"] = "coco"
    name: str = "coco"
    """`coco` (under PIIP_DATA), `demo` (made under PIIP_HOME) or `custom` (paths given on the command line)."""
    short_ratio: float = Field(default=800 / 1333, gt=0, le=1)
    """The short side is at most floor(resolution * short_ratio); the long side at most `resolution`."""
    train_scales: tuple[float, ...] = (1.0,)
    """Training draws one of these factors per image and multiplies both limits by it."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip in training."""
    pad_multiple: int = Field(default=224, gt=0)
    """Images are zero padded, right and bottom, to a multiple of this."""
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    """RGB, in 0..255."""
    broken_images: Literal["refuse", "skip"] = "refuse"
    """What training does with an image that cannot be decoded."""


class OptimSpec(Spec):
    """AdamW, layer-wise decay, warm-up and a schedule."""

    lr: float = Field(default=1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.05, ge=0)
    layer_decay: float = Field(default=0.85, gt=0, le=1)
    """Block j of L in a branch learns at lr * layer_decay ** (L - j); interactions, merge, neck and head at lr."""
    groups: Literal["released", "corrected", "classification"] = "released"
    """`released`: as the official detection code, where branches of 32 blocks beside 48 have their steps rounded down, and position
    embeddings, bias tables and merge weights decay. `corrected`: exact steps, and none of those decays. `classification`: no layer
    decay, lr times ten outside branches, weight decay on everything."""
    warmup_steps: int = Field(default=500, ge=0)
    warmup_ratio: float = Field(default=1e-3, ge=0, le=1)
    schedule: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[float, ...] = (8 / 12, 11 / 12)
    """Parts of the training after which `step` multiplies the rate by 0.1."""
    clip_norm: float | None = Field(default=None, gt=0)


class TrainSpec(Spec):
    """How long, how precise, by which engine."""

    batch_size: int = Field(default=16, gt=0)
    """Images per optimizer step over all workers."""
    micro_batch: int | None = Field(default=None, gt=0)
    """Images per worker and forward pass; None takes batch_size / workers (no accumulation)."""
    steps: int | None = Field(default=None, gt=0)
    """Optimizer steps; wins over epochs."""
    epochs: float = Field(default=12, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast over fp32 weights; box operations stay fp32."""
    engine: Literal["deepspeed", "ddp"] = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = 0
    eval_every: int | None = Field(default=None, gt=0)
    """Steps between evaluations; None evaluates after every epoch (at the end only where an epoch is longer than the training)."""
    save_every: int | None = Field(default=None, gt=0)
    """Steps between checkpoints; None saves when it evaluates, a run of fixed `steps` every 250 too."""
    log_every: int = Field(default=10, gt=0)
    keep: int = Field(default=2, ge=1)
    """Checkpoints kept besides the best one."""
    seed: int = 0

    @model_validator(mode="after")
    def _micro_batch_divides(self) -> Self:
        if self.micro_batch and self.batch_size % self.micro_batch:
            fits = [n for n in range(1, self.batch_size + 1) if self.batch_size % n == 0]
            raise ValueError(
                f"micro_batch {self.micro_batch} does not divide batch_size {self.batch_size}. Fits: {fits}"
            )
        return self


class SpeedSpec(Spec):
    """How the same network is computed sooner. Every switch gives what its plain form gives, to rounding; tests hold them equal."""

    windows: Literal["exact", "padded"] = "exact"
    """`exact`: window attention on real tokens, padded ones as one key of their number's weight. `padded`: as published."""
    interactions: Literal["mixed", "bf16", "fp32"] = "mixed"
    """Under bf16. `mixed`: the attention's value and output layers in bf16, offsets and softmax in fp32. `bf16`: the product that
    gives offsets and logits in bf16, too; their biases are added, and everything after is done, in fp32. `fp32`: all of them, as the
    official code."""
    attention: Literal["auto", "sdpa", "products", "flash", "varlen"] = "auto"
    """`sdpa`: what PyTorch chooses, FlashAttention 2 among it. `products`: two matrix products and a softmax (all logits are held).
    `flash`: FlashAttention 4 (the `flash` extra; bf16, compute capability 9.0 or 10.0). `varlen`: windows of unequal shapes in one
    call (CUDA, bf16). `auto`: `flash` where it can run, `products` on the CPU in bf16, else `sdpa`."""
    heads: Literal["bf16", "fp32"] = "fp32"
    """Layers of proposals, box and mask heads under bf16; boxes, RoIAlign, NMS and losses stay fp32. `fp32`: as the official code."""
    layout: Literal["channels_last", "contiguous"] = "channels_last"
    """Of maps. `channels_last`: as tokens lie, from the first to the last convolution. `contiguous`: copied channels first in front of
    interactions' depthwise convolutions and of neck and heads, as the official code."""
    memory: Literal["kept", "returned"] = "kept"
    """`kept`: the process keeps the memory that a step frees for the next one; the most it ever held stays resident (glibc only).
    `returned`: as the C library does by itself."""

    compile: Literal["off", "blocks", "cuda_graphs"] = "off"
    """`blocks`: each branch's block and each interaction's unit goes through torch.compile, in training; every size of image compiles
    anew, so let data.pad_multiple make few. `cuda_graphs`: these regions are captured and replayed, too (mode "reduce-overhead"); not
    with branches' `checkpointing`."""
    streams: bool = False
    """Between interactions every branch runs on a CUDA stream of its own, beside the others."""

    @model_validator(mode="after")
    def _one_stream_is_captured(self) -> Self:
        if self.streams and self.compile == "cuda_graphs":
            raise ValueError(
                "speed.streams and speed.compile 'cuda_graphs' exclude each other: graphs are captured on one stream"
            )
        return self

    @property
    def anywhere(self) -> Self:
        """The switches that decide about rounding; those that ask something of the machine, at their defaults."""
        return type(self)(windows=self.windows, interactions=self.interactions, heads=self.heads)
