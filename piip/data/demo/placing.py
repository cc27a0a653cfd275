"""Puts data that were made in their place: whole or not at all, and nothing of somebody else is lost."""

import os
from collections.abc import Callable
from pathlib import Path
from re import Pattern
from typing import TypeVar

from piip.scratch import scratch

Told = TypeVar("Told")


def put_in_place(out: Path, make: Callable[[Path], Told], *, made: Pattern[str], what: str) -> Told:
    """Makes a folder anew, and returns what `make` tells of it.

    Args:
        out: A new folder, or one of the same kind of data, which is replaced.
        make: Writes everything into a folder that is not there yet, with `recipe.json` among it.
        made: Paths, below the folder, of all files that `make` writes.
        what: The data in words, for who gives a folder of others.

    Raises:
        ValueError: There are files in `out` that were not made so.
    """
    out = out.resolve()  # of a link, the folder behind it
    _check_ours(out, made, what)
    out.parent.mkdir(parents=True, exist_ok=True)
    # beside it, under a name that nobody else has or guesses; whatever happens, what is in there goes again
    with scratch(out.parent, f".{out.name}.building-") as own:
        told = make(own / "new")
        _replace(own / "new", out, old=own / "old")
    return told


def _check_ours(out: Path, made: Pattern[str], what: str) -> None:
    """Refuses a folder with anything in it that was not made: it would be gone with what is replaced.

    Raises:
        ValueError: Naming the first such file.
    """
    if not out.exists():
        return
    if any(out.iterdir()) and not (out / "recipe.json").exists():
        raise ValueError(f"{out} exists and is not {what} (it has no recipe.json). Give a new folder.")
    files = (path.relative_to(out).as_posix() for path in sorted(out.rglob("*")) if not path.is_dir())
    if foreign := [file for file in files if not made.fullmatch(file)]:
        raise ValueError(
            f"{out} holds {len(foreign)} files that are not {what}, first {foreign[0]}; making it anew would delete them. "
            "Move them, or give a new folder."
        )


def _replace(new: Path, out: Path, *, old: Path) -> None:
    """Puts the folder `new` where `out` is, and `out` where `old` is; a reader sees the old one or the new one."""
    if out.exists():
        os.rename(out, old)
    try:
        os.rename(new, out)
    except BaseException:
        if old.exists():
            os.rename(old, out)
        raise
