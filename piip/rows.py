"""List the rows of all experiment files with their cost, ours beside the paper's. Starts nothing.

Examples:
  python -m piip.rows
  python -m piip.rows --json
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from piip.console import guarded, setup_logging
from piip.sweeps.found import all_rows
from piip.sweeps.listing import list_rows


@dataclass
class Options:
    """What `python -m piip.rows` is told."""

    json: bool = False
    """One JSON document on stdout."""


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    options = tyro.cli(Options, prog="python -m piip.rows", description=__doc__, args=arguments)
    setup_logging()
    return guarded(lambda: list_rows(list(all_rows().values()), as_json=options.json))


if __name__ == "__main__":
    sys.exit(cli())
