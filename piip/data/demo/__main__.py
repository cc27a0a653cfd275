"""Make the demo data: drawn objects on photographs, in COCO's, ADE20K's and ImageNet's layouts.

    python -m piip.data.demo OUT [--train 280 --val 80 --maps 2 --crops 8 --seed 0 --sides 160 288 --objects 20 120]

The shape tells the class; the colour narrows it to three of the twelve. Pattern, outline, opacity, proportions and tilt vary freely.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated

import tyro
from pydantic import Field

from piip.console import run_verb
from piip.data.demo.make import Recipe, make_demo
from piip.options import Count, CountOrNone, OutFolder, UsageError

Side = Annotated[int, Field(ge=1, le=1024)]
"""Pixels of an image."""
Object = Annotated[int, Field(ge=4)]
"""Pixels of an object."""


@dataclass
class Options:
    """What `python -m piip.data.demo` is told."""

    out: Annotated[tyro.conf.Positional[OutFolder], tyro.conf.arg(metavar="OUT")]
    """A new folder, or one this command made before."""
    train: Count = Recipe.train
    """Training images."""
    val: Count = Recipe.val
    """Validation images."""
    maps: Count = Recipe.maps
    """Training images with a label map for every one with boxes: what a segmenter learns."""
    crops: Count = Recipe.crops
    """Crops of single objects for every image, the classes in turn: what a classifier learns."""
    seed: CountOrNone = Recipe.seed
    """Another seed draws other images."""
    sides: tuple[Side, Side] = Recipe.sides
    """Least and most pixels of an image's width."""
    objects: tuple[Object, Object] = Recipe.objects
    """Least and most pixels of an object's longer side."""
    json: bool = False
    """One JSON document on stdout instead of a line."""


def main(options: Options) -> int:
    """Run the verb."""
    try:
        recipe = Recipe(**{field.name: getattr(options, field.name) for field in fields(Recipe)})
    except ValueError as error:
        raise UsageError(f"--sides, --objects: {error}") from None
    counts = make_demo(options.out, recipe)
    if options.json:
        print(json.dumps({"out": str(options.out.absolute()), **counts}))
    else:
        print(f"{options.out}: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
        print("boxes and masks: annotations/*.json; label maps: ade20k/; crops, a folder a class: imagenet/")
    return 0


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(Options, main, prog="python -m piip.data.demo", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(cli())
