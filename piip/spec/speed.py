"""How the same network is computed sooner."""

from typing import Annotated, Literal, Self

from pydantic import model_validator

from piip.spec.base import DecidesNoNumber, Spec


class SpeedSpec(Spec):
    """How the same network is computed sooner. Every switch gives what its plain form gives, to rounding; tests hold them equal."""

    kernel: Annotated[Literal["auto", "cpp", "cuda", "triton", "reference"], DecidesNoNumber()] = "auto"
    """What computes deformable attention. `auto`: the compiled operator (on CUDA: else Triton) where it can be built, else the
    PyTorch reference (one line says so). DINO's, over several levels, has no Triton form: it takes `auto` there."""
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
    """Layers of heads under bf16; boxes, places, RoIAlign, NMS and losses stay fp32. `fp32`: as the official code."""
    layout: Literal["channels_last", "contiguous"] = "channels_last"
    """How maps lie in memory. `channels_last`: as tokens do, from the first to the last convolution. `contiguous`: copied channels
    first in front of interactions' depthwise convolutions and of neck and heads, as the official code."""
    memory: Annotated[Literal["kept", "returned"], DecidesNoNumber()] = "kept"
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
        kernel = "reference" if self.kernel == "reference" else "auto"  # which every machine has
        return type(self)(kernel=kernel, windows=self.windows, interactions=self.interactions, heads=self.heads)
