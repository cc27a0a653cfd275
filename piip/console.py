"""What every verb does with its command line, its mistakes and its logs. Imports nothing heavy: `--help` does not wait for PyTorch."""

import io
import logging
import os
import select
import signal
import sys
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    UnsupportedTypeAnnotationError,
)

from piip.options import UsageError, checked, one_line_of, refuse_values

Options = TypeVar("Options")

WRONG_WORDS = 2
"""Exit code of a command line that is wrong by its words alone."""
INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a verb that Ctrl-C ended, as of any command."""
NOBODY_READS = 128 + signal.SIGPIPE
"""Exit code of a verb whose output nobody reads to its end (`| head`), as of any command."""
FLAGS = ConstructorRegistry()
"""How flags are read, beside what tyro knows."""


@FLAGS.primitive_rule
def _nobody_types_none(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | UnsupportedTypeAnnotationError | None:
    """A flag of `X | None` takes an X; None is one that was not given."""
    kinds = [kind for kind in get_args(info.type) if kind is not NoneType]
    if info.type_origin not in (Union, UnionType) or len(kinds) != 1:
        return None
    only = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], info.markers))
    if isinstance(only, UnsupportedTypeAnnotationError):
        return only
    return replace(
        only,
        is_instance=lambda value: value is None or only.is_instance(value),
        str_from_instance=lambda value: ["none"] if value is None else only.str_from_instance(value),
    )


_BREAKS = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's categories of control characters, halves of characters, and what ends lines and paragraphs."""
_TURNS = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""What turns the direction of the text around it."""


def one_line(text: str) -> str:
    """Text from outside as it may stand in a line of a terminal, a table, a picture: what would leave the line is a space.

    Joiners stay, without which Persian and Hindi cannot be written.
    """
    if text.isprintable():
        return " ".join(text.split())
    kept = (" " if c in _TURNS or unicodedata.category(c) in _BREAKS else c for c in text)
    return " ".join("".join(kept).split())


def several(count: int, one: str, many: str = "") -> str:
    """`1 image`, `2 images`; `many` where that is not `one` and an s."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def setup_streams() -> None:
    """Lets every letter be printed, as ? where the terminal's encoding has none; a stream that is closed (cron, `>&-`) swallows.

    A closed one's number is taken: the next file that is opened would have it, and whatever C code prints would land in there.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(handle)
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def setup_logging() -> None:
    """Logs to stderr, one line each; libraries only when something is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)


def parse(options: Any, *, prog: str | None, description: str | None, arguments: Sequence[str] | None) -> Any:
    """A command line as `options`, a dataclass. See `run_verb`.

    Raises:
        UsageError: It is wrong by its words alone.
    """
    refuse_values(options, sys.argv[1:] if arguments is None else arguments)
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            given = tyro.cli(
                options,
                prog=prog,
                description=description,
                args=arguments,
                registry=FLAGS,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as leaving:
        if leaving.code != WRONG_WORDS:  # --help
            raise
        raise UsageError(
            f"{one_line_of(said.getvalue())}. All there is: {prog or Path(sys.argv[0]).name} --help"
        ) from None
    checked(given)
    return given


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
        given = parse(options, prog=prog, description=description, arguments=arguments)
        setup_logging()
        return action(given)

    return guarded(run)


def guarded(action: Callable[[], int | None]) -> int:
    """Run a verb: what the user can put right becomes one line on stderr and an exit code, our own mistakes stay tracebacks.

    2: the command line is wrong by its words alone; 1: something else.

    Args:
        action: Returns the exit code. Its ValueError (input), OSError (files; ConnectionError: MLflow, Ray) are the user's.
    """
    setup_streams()
    try:
        try:
            return action() or 0
        finally:
            sys.stdout.flush()  # here, not as Python ends: a reader that has gone is no mistake of anybody's
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return NOBODY_READS
        print(f"error: {_nowhere() or one_line(str(error))}", file=sys.stderr)
        return WRONG_WORDS if isinstance(error, UsageError) else 1
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):  # a table's end: rich has closed stdout
            return NOBODY_READS
        raise
    except KeyboardInterrupt:
        print("error: interrupted; the same command continues where it stopped", file=sys.stderr)
        return INTERRUPTED


def _nowhere() -> str:
    """What is wrong where the folder that a verb is typed in was removed: libraries say `No such file or directory`, of nothing."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return "the folder that this was typed in is gone: cd to one that is there"
    return ""


def _nobody_reads() -> bool:
    """Whether stdout is the broken pipe; what is left for it then goes nowhere, in silence."""
    stdout = select.poll()
    stdout.register(sys.stdout)
    gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in stdout.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone
