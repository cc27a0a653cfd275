"""Compile the kernels of csrc/ for this machine, unless that is done, and say which kernel will run."""

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from piip.console import run_verb
from piip.options import UsageError

HELP = """Compile the kernels of csrc/ for this machine, unless that is done, and say which kernel will run.

Examples:
  python -m piip.ops.build
  python -m piip.ops.build --cuda              # the CUDA kernels too: for the GPUs here, or all supported ones where there is none
  python -m piip.ops.build --cuda --check      # registers, spills and vector instructions of the CUDA kernels; needs no GPU
  CXX=clang++ python -m piip.ops.build
  PIIP_KERNEL=cpp python -m piip.ops.build     # exits with 1 where plain PyTorch would run instead
"""


@dataclass
class Options:
    """What `python -m piip.ops.build` is told."""

    cuda: bool = False
    """Compile the CUDA kernels with nvcc."""
    check: bool = False
    """With --cuda: compile for every architecture and print what the compiler made of it: registers, spills."""


def main(options: Options) -> int:
    """Compiles if needed and says what was done and which kernel will run. `PIIP_KERNEL=cpp` makes anything else a failure."""
    if options.check and not options.cuda:
        raise UsageError("--check is about the CUDA kernels: add --cuda")
    if options.cuda:
        return _check_cuda() if options.check else _compile_cuda()
    return _compile()


def _compile() -> int:
    from piip.ops.compiled import cpu
    from piip.ops.kernels import active_kernel

    outcome = cpu.loaded()
    if isinstance(outcome, cpu.Library):
        print(outcome.lines)
    try:
        print(f"kernel    {active_kernel()}")
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    # without any compiler plain PyTorch is the way; one that somebody named is to work
    return int(not isinstance(outcome, cpu.Library) and bool(os.environ.get("CXX")))


def _compile_cuda() -> int:
    """Compiles for the GPUs here, or for all supported ones where there is none."""
    from piip.ops.compiled import cuda

    cuda.log.setLevel(logging.INFO)
    try:
        print(cuda.compile_sources(cuda.architectures_here()).lines)
    except cuda.BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _check_cuda() -> int:
    from piip.ops.compiled import check

    return check.main()


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(Options, main, prog="python -m piip.ops.build", description=HELP, arguments=arguments)


if __name__ == "__main__":
    sys.exit(cli())
