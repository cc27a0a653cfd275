"""Optimizer, schedule, engine: how a model is trained."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from piip.spec.base import Added, Spec


class OptimSpec(Spec):
    """AdamW, layer-wise decay, warm-up and a schedule."""

    lr: float = Field(default=1e-4, gt=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    weight_decay: float = Field(default=0.05, ge=0)
    layer_decay: float = Field(default=0.85, gt=0, le=1)
    """Block j of L in a branch learns at lr * layer_decay ** (L - j); interactions, merge, neck and head at lr."""
    groups: Literal["released", "corrected", "classification", "uniform", "internimage"] = "released"
    """`released`: as the official detection code, where branches of 32 blocks beside 48 have their steps rounded down, and position
    embeddings, bias tables and merge weights decay. `corrected`: exact steps, and none of those decays. `classification`: no layer
    decay, lr times ten outside branches, weight decay on everything. `uniform`: one rate, and weight decay on everything, norms and
    biases too (MPViT's detectors). `internimage`: as InternImage's detection code, where the last level's norm and those between blocks
    learn at other layers' rates, a composite of two at one, DINO's level embeddings as slowly as the stem, and layers that say where
    DINO looks have no weight decay."""
    offset_rate: Annotated[float, Added(1.0)] = Field(default=1.0, gt=0)
    """Factor of the rate of layers that say where DINO's attention looks, for `groups` `internimage` (published: 1e-3 for H and G)."""
    warmup_steps: int = Field(default=500, ge=0)
    warmup_part: Annotated[float | None, Added(None)] = Field(default=None, ge=0, le=1)
    """Warm-up as a part of the training (5 of 20 epochs: 0.25); wins over warmup_steps."""
    warmup_ratio: float = Field(default=1e-3, ge=0, le=1)
    """Part of the rate that warm-up begins at."""
    schedule: Literal["step", "cosine", "poly", "constant"] = "step"
    """`poly` falls straight to 0 (mmsegmentation's, of power 1), the warm-up on top of it."""
    milestones: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (8 / 12, 11 / 12)
    """Parts of the training after which `step` multiplies the rate by 0.1."""
    min_lr: Annotated[float, Added(0.0)] = Field(default=0.0, ge=0)
    """Where `cosine` ends, of groups that learn at `lr` or faster; slower ones end at their share of it."""
    clip_norm: float | None = Field(default=None, gt=0)
    lr_per: Annotated[int | None, Added(None)] = Field(default=None, gt=0)
    """Images a step that `lr` and `min_lr` are for: with others, rates are as much higher or lower (linear scaling); None: these rates."""

    def at(self, batch_size: int) -> Self:
        """With the rates of a batch."""
        if self.lr_per is None:
            return self
        factor = batch_size / self.lr_per
        return self.model_copy(update={"lr": self.lr * factor, "min_lr": self.min_lr * factor, "lr_per": None})

    @model_validator(mode="after")
    def _offsets_are_of_a_group(self) -> Self:
        if self.offset_rate != 1 and self.groups != "internimage":
            raise ValueError(
                f"offset_rate {self.offset_rate:g} is for groups 'internimage', got {self.groups!r}. Leave it 1"
            )
        return self

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.min_lr and (self.schedule != "cosine" or self.min_lr > self.lr):
            raise ValueError(
                f"min_lr {self.min_lr:g} is where schedule 'cosine' ends, at most lr; got schedule {self.schedule!r}, lr {self.lr:g}"
            )
        return self


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
    freeze: Annotated[tuple[str, ...], Added(())] = ()
    """Parts that do not learn, and behave as in evaluation (drop path, running statistics): names of modules, `backbone.branches.1`."""
    ema: Annotated[float | None, Added(None)] = Field(default=None, gt=0, lt=1)
    """A running mean of the weights, of which this share stays in a step, is what is scored and saved; None: the weights are."""
    ema_warmup: Annotated[int, Added(0)] = Field(default=0, ge=0)
    """Steps in which little of the mean stays: it stays times 1 - exp(-step / ema_warmup) (mmdetection: 2000); 0: none."""
    eval_every: int | None = Field(default=None, gt=0)
    """Steps between evaluations; None evaluates after every epoch (at the end only where an epoch is longer than the training)."""
    save_every: int | None = Field(default=None, gt=0)
    """Steps between checkpoints; None saves when it evaluates, a run of fixed `steps` every 250 too."""
    log_every: int = Field(default=10, gt=0)
    keep: int = Field(default=2, ge=1)
    """Checkpoints kept besides the best one."""
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _micro_batch_divides(self) -> Self:
        if self.micro_batch and self.batch_size % self.micro_batch:
            fits = [n for n in range(1, self.batch_size + 1) if self.batch_size % n == 0]
            raise ValueError(
                f"micro_batch {self.micro_batch} does not divide batch_size {self.batch_size}. Fits: {fits}"
            )
        return self

    @model_validator(mode="after")
    def _mean_is_whole(self) -> Self:
        if self.ema is not None and self.engine == "deepspeed" and self.zero_stage == 3:
            raise ValueError("ema is a mean of whole weights, which zero_stage 3 shards. Take stage 2")
        if self.ema_warmup and self.ema is None:
            raise ValueError(f"ema_warmup {self.ema_warmup} is of a running mean, and ema is not set. Set it: 0.9999")
        return self

    def split(self, workers: int) -> tuple[int, int]:
        """`split_batch` of this training."""
        return split_batch(self.batch_size, self.micro_batch, workers)


def split_batch(batch_size: int, micro_batch: int | None, workers: int) -> tuple[int, int]:
    """Images per worker and forward pass, and passes per step.

    Args:
        batch_size: Images per optimizer step over all workers.
        micro_batch: As `TrainSpec.micro_batch`.
        workers: That share the batch.

    Raises:
        ValueError: They do not divide it; those that do are named.
    """
    per_worker = micro_batch or max(batch_size // workers, 1)
    if batch_size % (workers * per_worker):
        unit = micro_batch or 1
        fits = [n for n in range(1, batch_size // unit + 1) if batch_size % (n * unit) == 0]
        images = f" x {micro_batch} images" if micro_batch else ""
        listed = ", ".join(map(str, fits)) or "none"
        raise ValueError(
            f"batch_size {batch_size} does not divide by {workers} workers{images}. Workers that fit: {listed}."
        )
    return per_worker, batch_size // (workers * per_worker)
