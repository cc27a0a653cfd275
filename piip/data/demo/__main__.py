"""Make the demo data: drawn objects on photographs, in COCO's, ADE20K's and ImageNet's layouts.

    python -m piip.data.demo OUT [--train 280 --val 80 --maps 2 --crops 8 --seed 0 --sides 160 288 --objects 20 120]

The shape tells the class; the colour narrows it to three of the twelve. Pattern, outline, opacity, proportions and tilt vary freely.
"""

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, get_args

import tyro
from pydantic import Field

from piip.console import run_verb
from piip.data.demo.make import Recipe, demo_root, make_demo
from piip.options import Count, CountOrNone, OutFolder, UsageError
from piip.spec import Data
from piip.spec.data import words_for
from piip.spec.places import DataSpec

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
        print("boxes, masks and keypoints: annotations/*.json; label maps: ade20k/; crops, a folder a class: imagenet/")
        print("\n".join(use(options.out.absolute(), recipe)))
    return 0


def use(out: Path, recipe: Recipe) -> Iterator[str]:
    """How training reads a folder of demo data: by itself, or by which flags."""
    if out.resolve() == demo_root().resolve():
        if recipe == Recipe():
            yield "the demo's rows (piip rows demo) train on it: it lies where they look for it"
        else:
            yield f"the demo's rows look here for data of the default numbers and will draw them anew over these: {out}"
            yield "To train on yours, draw them into another folder"
        return
    yield f"the demo's rows (piip rows demo) do not read it: they make and read {demo_root()}. To train on it:"
    for kind in get_args(get_args(Data)[0]):
        if "demo" in kind.places:
            flags = " ".join(f"{flag} {shlex.quote(str(path))}" for flag, path in own_flags(kind(), out).items())
            yield f"  {words_for(kind())}: piip train ROW {flags}      # a ROW of: piip rows demo --task {kind.task}"


def own_flags(data: DataSpec, out: Path) -> dict[str, Path]:
    """The flags by which a row of this kind of data takes a folder of demo data for a user's own."""
    place, flags = data.places["demo"], {}
    for split, part in (("train", "training"), ("val", "validation")):
        wanted = {"annotations": place.annotations, "images": place.images} if place.apart else {"images": place.images}
        for what, path in wanted.items():
            below = path.format(split=split, part=part).removeprefix("demo/")
            flags[f"--{split}-{what}"] = out / below
    return flags | ({"--names": out / place.names.removeprefix("demo/")} if place.names else {})


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(Options, main, prog="python -m piip.data.demo", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(cli())
