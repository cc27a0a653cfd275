"""Why a trial failed, in words that fit a table: Ray's own fill a page."""

import re

from ray.exceptions import OutOfMemoryError

LONGEST = 200
"""Characters of a reason that Ray gave."""
_LOW_ON_MEMORY = re.compile(r"low on memory|memory monitor", re.IGNORECASE)
_IN_USE = re.compile(r"([\d.]+) ?GB used / ([\d.]+) ?GB limit")


def reason_of(error: Exception) -> str:
    """What ended a trial: for memory one sentence with what to do, else the last line of Ray's text, cut to `LONGEST`.

    Args:
        error: Of Ray Train or Ray Tune; what happened to workers stands in its text.
    """
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OutOfMemoryError) or _LOW_ON_MEMORY.search(text):
        return _out_of_memory(text)
    return cut(text.splitlines()[-1])


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
