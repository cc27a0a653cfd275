"""What kind of data a path looks like, for who forgot to say it."""

from pathlib import Path

from piip.data.files import entries
from piip.spec.data import kinds_known_by

FOLDERS = 8
"""Folders below a path whose names are looked at."""


def looks_like(path: Path, kind: str) -> str:
    """Advice to be put behind a sentence: `. It looks like --kind yolo`; empty where nothing tells, or it looks like what was said.

    Args:
        path: What was given as data.
        kind: As which kind.
    """
    folders, files = entries(path)
    names = [*path.absolute().parts[-2:], *folders, *files]
    for folder in sorted(folders)[:FOLDERS]:
        names += [name for below in entries(path / folder) for name in below]
    kinds = kinds_known_by(names)
    return f". It looks like --kind {kinds[0]}" if kinds and kind not in kinds else ""
