"""List rows in words and with their cost, ours beside the paper's. Starts nothing.

A word picks rows by a part of their name, a pattern of it (* and ?), the data set (coco, ade20k, aerial, demo, ..) or the task; several
words pick what all of them do. Each row is printed as soon as its network is counted, which takes a second; what was counted once is
kept under PIIP_HOME.

Examples:
  python -m piip.rows
  python -m piip.rows coco
  python -m piip.rows '*_tsb_*' coco
  python -m piip.rows --task segmentation --names
  python -m piip.rows --json
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from piip.catalogue.listing import explained, list_rows
from piip.catalogue.rows import all_rows, picked
from piip.console import run_verb

NAME = (
    "a name: head, backbone, image sizes in pixels, how long it trains (1x: 12 epochs, 80k: 80000 steps, 20ep: 20 epochs, pico94: 94 "
    "steps on the demo's data, aerial900: 900 on the aerial ones)"
)


@dataclass
class Options:
    """What `python -m piip.rows` is told."""

    words: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[WORD ...]")] = ()
    """Only rows that every word picks: part or pattern of a name, data set, task."""
    task: Literal["detection", "segmentation", "classification"] | None = None
    """Only rows of this task."""
    names: bool = False
    """Names only, one a line: at once."""
    json: bool = False
    """One JSON document on stdout."""


def main(options: Options) -> int:
    """Run the verb."""
    rows = picked(all_rows(), [*options.words, *([options.task] if options.task else [])])
    if options.names:
        print(json.dumps(list(rows)) if options.json else "\n".join(rows))
        return 0
    specs = list(rows.values())
    if not options.json:
        print("\n".join([NAME, *explained(specs)]), end="\n\n", flush=True)
    return list_rows(specs, as_json=options.json)


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(Options, main, prog="python -m piip.rows", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(cli())
