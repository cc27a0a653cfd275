"""Every named row of experiments/: `python -m piip.rows`."""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import tyro

from piip import home
from piip.spec import ExperimentSpec
from piip.sweeps.cli import guarded, list_rows, setup_logging


@dataclass
class Options:
    """List the rows of all experiment files with their cost, ours beside the paper's. Starts nothing.

    Examples:
        python -m piip.rows
        python -m piip.rows --json
    """

    json: bool = False
    """One JSON document on stdout."""


def all_rows() -> dict[str, ExperimentSpec]:
    """Rows by name, from every file of experiments/ that has a ROWS table.

    Raises:
        ValueError: Two rows share a name, or there is no experiments/ folder beside the package.
    """
    folder = home.package_root() / "experiments"
    if not folder.is_dir():
        raise ValueError(f"no experiments/ folder at {folder.parent}: rows live in the checkout, not in the installed package")
    rows: dict[str, ExperimentSpec] = {}
    for file in sorted(folder.glob("*.py")):
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


def find_row(name: str) -> ExperimentSpec:
    """One row by name; a wrong name is answered with the nearest."""
    rows = all_rows()
    if name not in rows:
        close = get_close_matches(name, rows, n=1, cutoff=0.0)
        raise ValueError(f"no row {name!r}. Nearest: {close[0]!r}. All rows: python -m piip.rows")
    return rows[name]


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    options = tyro.cli(Options, args=arguments)
    setup_logging()
    return guarded(lambda: list_rows(list(all_rows().values()), as_json=options.json))


if __name__ == "__main__":
    sys.exit(cli())
