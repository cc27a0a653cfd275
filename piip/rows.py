"""List the rows of all experiment files with their cost, ours beside the paper's. Starts nothing.

Examples:
  python -m piip.rows
  python -m piip.rows --names
  python -m piip.rows --json
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from piip.catalogue.listing import list_rows
from piip.catalogue.rows import all_rows
from piip.console import run_verb


@dataclass
class Options:
    """What `python -m piip.rows` is told."""

    names: bool = False
    """Names only, one a line: at once; counting what every network costs takes a minute."""
    json: bool = False
    """One JSON document on stdout."""


def main(options: Options) -> int:
    """Run the verb."""
    rows = all_rows()
    if options.names:
        print(json.dumps(list(rows)) if options.json else "\n".join(rows))
        return 0
    return list_rows(list(rows.values()), as_json=options.json)


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(Options, main, prog="python -m piip.rows", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(cli())
