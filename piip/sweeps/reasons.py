"""Why a trial failed, in words that fit a table: Ray's own fill a page."""

import re

from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError

LONGEST = 200
"""Characters of a reason in Ray's words."""
OURS = 400
"""Characters of another error's message: ours end in what to do."""
_FRAME = re.compile(r"\s+File ")
_LOW_ON_MEMORY = re.compile(r"low on memory|memory monitor", re.IGNORECASE)
_IN_USE = re.compile(r"([\d.]+) ?GB used / ([\d.]+) ?GB limit")


def reason_of(error: Exception) -> str:
    """What ended a trial, in one line: for memory a sentence with what to do, else the exception's type and whole message, cut.

    Args:
        error: Of Ray Train or Ray Tune, which wrap what happened to workers, or what happened itself.
    """
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OutOfMemoryError) or _LOW_ON_MEMORY.search(text):
        return _out_of_memory(text)
    inner = _unwrapped(error)
    if isinstance(inner, RayError | TrainingFailedError):
        return cut(_without_frames(str(inner)) or type(inner).__name__)
    return cut(f"{type(inner).__name__}: {inner}".removesuffix(": "), OURS)


def _unwrapped(error: Exception) -> Exception:
    """What a worker, the one of the lowest rank, or a controller raised; `error` where Ray gives no more than its text."""
    match error:
        case WorkerGroupError(worker_failures=failures) if failures:
            return _unwrapped(failures[min(failures)])
        case ControllerError():
            return _unwrapped(error.controller_failure)
        case RayTaskError(cause=Exception() as cause):
            return _unwrapped(cause)
        case _:
            return error


def _without_frames(text: str) -> str:
    """A text from the message under its last traceback on; all of it where there is none."""
    lines = text.splitlines()
    frames = [number for number, line in enumerate(lines) if _FRAME.match(line)]
    said = [number for number, line in enumerate(lines) if frames and number > frames[-1] and not line.startswith(" ")]
    return "\n".join(lines[said[0] :]) if said else text


def cut(text: str, longest: int = LONGEST) -> str:
    """A text in one line, at most `longest` characters, ended between words."""
    line = " ".join(text.split())
    if len(line) <= longest:
        return line
    return (line[: longest - 3].rpartition(" ")[0] or line[: longest - 4]) + " ..."


def _out_of_memory(text: str) -> str:
    """Ray counts in 2**30 bytes and writes GB."""
    used = _IN_USE.search(text)
    figures = f" ({used[1]} of {used[2]} GiB in use)" if used else ""
    return (
        f"the machine ran out of memory{figures}: the same command tries it again. Run fewer trials at once (--concurrent 1), "
        "leave out large ones (--max-memory-gb) or lower train.batch_size"
    )
