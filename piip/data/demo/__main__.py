"""Make the demo data: drawn objects on photographs, in COCO's, ADE20K's and ImageNet's layouts.

    python -m piip.data.demo OUT [--train 280 --val 80 --maps 3 --crops 8 --seed 0 --sides 160 288 --objects 20 120]

The shape tells the class; the colour narrows it to three of the twelve. Pattern, outline, opacity, proportions and tilt vary freely.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from piip.console import run_verb
from piip.data.demo.make import Recipe, make_demo


@dataclass
class Options:
    """What `python -m piip.data.demo` is told."""

    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """A new folder, or one this command made before."""
    train: int = Recipe.train
    """Training images."""
    val: int = Recipe.val
    """Validation images."""
    maps: int = Recipe.maps
    """Training images with a label map for every one with boxes: what a segmenter learns."""
    crops: int = Recipe.crops
    """Crops of single objects for every image, the classes in turn: what a classifier learns."""
    seed: int = Recipe.seed
    """Another seed draws other images."""
    sides: tuple[int, int] = Recipe.sides
    """Least and most pixels of an image's width."""
    objects: tuple[int, int] = Recipe.objects
    """Least and most pixels of an object's longer side."""
    json: bool = False
    """One JSON document on stdout instead of a line."""


def main(options: Options) -> int:
    """Run the verb."""
    recipe = {field.name: getattr(options, field.name) for field in fields(Recipe)}
    counts = make_demo(options.out, Recipe(**recipe))
    if options.json:
        print(json.dumps({"out": str(options.out.absolute()), **counts}))
    else:
        print(f"{options.out}: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
    return 0


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(Options, main, prog="python -m piip.data.demo", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(cli())
