"""Every named row of experiments/: `python -m piip.rows`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from piip.sweeps.cli import guarded, list_rows, setup_logging
from piip.sweeps.found import all_rows


@dataclass
class Options:
    """List the rows of all experiment files with their cost, ours beside the paper's. Starts nothing.

    Examples:
        python -m piip.rows
        python -m piip.rows --json
    """

    json: bool = False
    """One JSON document on stdout."""


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    options = tyro.cli(Options, args=arguments)
    setup_logging()
    return guarded(lambda: list_rows(list(all_rows().values()), as_json=options.json))


if __name__ == "__main__":
    sys.exit(cli())
