"""Train one row: `python -m piip.train ROW`. A sweep of one, with the same command line as an experiment file."""

import sys

from piip.sweeps.cli import guarded, main, setup_logging
from piip.sweeps.found import find_row


def cli(arguments: list[str]) -> int:
    """Take the row's name from the command line, leave the rest to the experiments' command line."""
    setup_logging()
    if not arguments or arguments[0].startswith("-"):
        if {"-h", "--help"} & set(arguments):
            main({}, experiment="train", description=__doc__ or "", arguments=["--help"])
        print("error: name one row first: python -m piip.train ROW [flags]. All rows: python -m piip.rows", file=sys.stderr)
        return 2
    name, *rest = arguments

    def run() -> int:
        main({"row": [find_row(name)]}, experiment="train", description=__doc__ or "", arguments=rest)
        return 0

    return guarded(run)


if __name__ == "__main__":
    sys.exit(cli(sys.argv[1:]))
