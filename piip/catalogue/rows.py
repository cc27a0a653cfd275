"""The rows of experiments/: found by importing its files."""

import importlib.util
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from piip import home
from piip.nearest import nearest
from piip.options import UsageError
from piip.spec import ExperimentSpec


def all_rows() -> dict[str, ExperimentSpec]:
    """Rows by name, from every file of experiments/ that has a ROWS table.

    Raises:
        ValueError: Two rows share a name, or there is no experiments/ folder.
    """
    rows: dict[str, ExperimentSpec] = {}
    for file in sorted(home.shipped("experiments").glob("*.py")):
        if "ROWS" not in file.read_text(encoding="utf-8"):
            continue  # a script without rows: its imports, PyTorch among them, are for who runs it
        for row in (row for table in load_tables(file).values() for row in table):
            if rows.setdefault(row.name, row).digest != row.digest:
                raise ValueError(f"{file}: another row is called {row.name!r} already")
    return rows


def load_tables(file: Path) -> dict[str, Sequence[ExperimentSpec]]:
    """The ROWS of an experiment file, by scale; empty where it has none."""
    description = importlib.util.spec_from_file_location(f"experiments_{file.stem}", file)
    if description is None or description.loader is None:
        raise ValueError(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    return getattr(module, "ROWS", {})


def picked(rows: Mapping[str, ExperimentSpec], words: Sequence[str]) -> dict[str, ExperimentSpec]:
    """The rows that all words pick: by a part or a pattern (* and ?) of their name, their data set or their task.

    Raises:
        UsageError: There is none.
    """
    left = dict(rows)
    for word in words:
        found = {name: row for name, row in left.items() if _picks(word, row)}
        if not found:
            beside = (
                f" among the {len(left)} that {' '.join(words[: words.index(word)])} picks"
                if len(left) < len(rows)
                else ""
            )
            raise UsageError(
                f"no row for {word!r}{beside}. A word is a part or a pattern of a name, a data set ({_listed(rows, 'name')}) or a task "
                f"({_listed(rows, 'task')}). All rows: python -m piip.rows --names"
            )
        left = found
    return left


def _picks(word: str, row: ExperimentSpec) -> bool:
    pattern = word if set(word) & set("*?[") else f"*{word}*"
    return word in (row.data.name, row.data.task) or fnmatchcase(row.name, pattern)


def _listed(rows: Mapping[str, ExperimentSpec], what: str) -> str:
    return ", ".join(sorted({getattr(row.data, what) for row in rows.values()}))


def find_row(name: str) -> ExperimentSpec:
    """One row by its name, or by that of its official configuration; a wrong name is answered with what it is like."""
    rows = all_rows()
    official = {row.paper.config: row for row in rows.values() if row.paper and row.paper.config}
    if name not in rows and name not in official:
        raise UsageError(f"no row {name!r}. {nearest(name, [*rows, *official])} All rows: python -m piip.rows --names")
    return rows.get(name) or official[name]
