"""Train one row of experiments/ on Ray; a repeated command continues where it stopped.

ROW is one of those that `python -m piip.rows --names` lists. The flags are those of a sweep.

Examples:
  python -m piip.train mask_rcnn_piip_tb_192_128_pico1200 --workers 2
  python -m piip.train mask_rcnn_piip_tsb_1120_896_448_1x --workers 8 --gpus-per-worker 1
"""

import sys
from collections.abc import Sequence

from piip.catalogue.rows import find_row
from piip.console import guarded, setup_logging
from piip.spec import ExperimentSpec
from piip.sweeps.cli import main


def cli(arguments: Sequence[str]) -> int:
    """Take the row's name from the command line, leave the rest to the experiments' command line."""
    setup_logging()
    about = {"experiment": "train", "description": __doc__ or "", "prog": "python -m piip.train ROW"}
    if {"-h", "--help"} & set(arguments):
        main({}, **about, arguments=["--help"])
    if not arguments or arguments[0].startswith("-"):
        print(
            "error: name one row first: python -m piip.train ROW [flags]. All rows: python -m piip.rows",
            file=sys.stderr,
        )
        return 2
    name, *rest = arguments

    def run() -> int:
        row = find_row(name)
        main({scale_of(row): [row]}, **about, arguments=rest)
        return 0

    return guarded(run)


def scale_of(row: ExperimentSpec) -> str:
    """The scale a row is made for."""
    return row.data.name if row.data.name in ("coco", "ade20k", "imagenet") else "pico"


if __name__ == "__main__":
    sys.exit(cli(sys.argv[1:]))
