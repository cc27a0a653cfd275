"""What every verb does with its command line, its mistakes and its logs. Imports nothing heavy: `--help` does not wait for PyTorch."""

import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

Options = TypeVar("Options")

NOBODY_READS = 128 + signal.SIGPIPE
"""Exit code of a verb whose output nobody reads to its end (`| head`), as of any command."""


def setup_logging() -> None:
    """Logs to stderr, one line each; libraries only when something is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)


def run_verb(
    options: type[Options], action: Callable[[Options], int], *, prog: str | None, description: str | None,
    arguments: Sequence[str] | None,
) -> int:  # fmt: skip
    """Parse a verb's command line and run it.

    Args:
        options: A dataclass, a field for each flag.
        action: Gets one; returns the exit code.
        prog: As a person types it; None: the script's name.
        description: What `--help` says first.
        arguments: After the name; None: those of this process.
    """

    def run() -> int:
        given = tyro.cli(options, prog=prog, description=description, args=arguments)
        setup_logging()
        return action(given)

    return guarded(run)


def guarded(action: Callable[[], int | None]) -> int:
    """Run a verb: what the user can put right becomes one line on stderr and exit code 1, our own mistakes stay tracebacks.

    Args:
        action: Returns the exit code. Its ValueError (input), OSError (files; ConnectionError: MLflow, Ray) are the user's.
    """
    try:
        try:
            return action() or 0
        finally:
            sys.stdout.flush()  # here, not as Python ends: a reader that has gone is no mistake of anybody's
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return NOBODY_READS
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):  # a table's end: rich has closed stdout
            return NOBODY_READS
        raise
    except KeyboardInterrupt:
        print("error: interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130


def _nobody_reads() -> bool:
    """Whether stdout is the broken pipe; what is left for it then goes nowhere, in silence."""
    stdout = select.poll()
    stdout.register(sys.stdout)
    gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in stdout.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone
