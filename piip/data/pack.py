"""Pack a folder of many files into a few large ones, for shared and object storage; or look whether a packed folder is whole.

    python -m piip.data.pack train_images/ packed/train      then packed/train is given wherever train_images/ was
    python -m piip.data.pack packed/train                    reads every shard again and compares its checksum

Images, label maps and class folders are packed alike, a whole data set (data.yaml, CSV, JSON with their images) as well: paths go on below
the packed folder as they did below the plain one. Training, evaluation and checks of a packed folder have the samples, order, digest and
trials of the folder it was made of. Killed midway, the same command goes on and ends in the same bytes.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from piip.console import run_verb
from piip.options import GivenFolder, OutFolder, UsageError


@dataclass
class Options:
    """What `python -m piip.data.pack` is told."""

    source: Annotated[tyro.conf.Positional[GivenFolder], tyro.conf.arg(metavar="FOLDER")]
    """A folder of files; without OUT, a packed one, to be verified."""
    out: Annotated[tyro.conf.Positional[OutFolder | None], tyro.conf.arg(metavar="OUT")] = None
    """A new folder, or one that this command was begun with."""
    shard_mb: Annotated[int, Field(ge=1, le=4096)] = 64
    """Megabytes of files in a shard."""
    pixels: bool = False
    """Store photographs decoded: several times the room and nothing to decode; the same samples and digest."""
    json: bool = False
    """One JSON document on stdout instead of a line."""


def main(options: Options) -> int:
    """Run the verb."""
    from piip.data import packing
    from piip.data.packed import is_packed

    out: Path | None = options.out
    if out is None and not is_packed(options.source):
        raise UsageError(f"{options.source} is not a packed folder; to pack it: piip data pack {options.source} OUT")
    if out is None:
        done = packing.verify(options.source)
    else:
        done = packing.pack(
            options.source, out, shard_bytes=options.shard_mb * 2**20, pixels=options.pixels, said=_progress
        )
    what = (
        "whole" if out is None else f"packed into {out}" + (f", {done.kept} shards of an earlier run" * bool(done.kept))
    )
    print(json.dumps(done._asdict()) if options.json else f"{done.files} files in {done.shards} shards {what}")
    return 0


def _progress(done: int, shards: int) -> None:
    if shards > 1:
        print(f"{done} of {shards} shards", file=sys.stderr)


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(Options, main, prog="python -m piip.data.pack", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(cli())
