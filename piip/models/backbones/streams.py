"""Work side by side on a GPU: a small network leaves most of it idle, another one can run beside it."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from piip.weights.resizing import Grid

Tokens = tuple[Tensor, Grid]


def side_by_side(calls: Sequence[Callable[[], Tokens]], inputs: Sequence[Tensor]) -> list[Tokens]:
    """What each call gives, each computed on a CUDA stream of its own; so are its gradients, autograd sees to that.

    Args:
        calls: Independent of each other.
        inputs: The tensor each call reads, made on the current stream; results are for the current stream, too.
    """
    current = torch.cuda.current_stream(inputs[0].device)
    streams = _streams(inputs[0].device, len(calls))
    results: list[Tokens] = []
    for stream, call, tensor in zip(streams, calls, inputs, strict=True):
        stream.wait_stream(current)
        tensor.record_stream(stream)  # or its memory could be given away while the stream still reads it
        with torch.cuda.stream(stream):
            results.append(call())
    for stream, (tokens, _) in zip(streams, results, strict=True):
        current.wait_stream(stream)
        tokens.record_stream(current)
    return results


@functools.cache
def _streams(device: torch.device, count: int) -> list[torch.cuda.Stream]:
    return [torch.cuda.Stream(device) for _ in range(count)]
