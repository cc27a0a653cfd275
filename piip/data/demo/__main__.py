"""Make the demo data: drawn objects on photographs, in COCO's, ADE20K's and ImageNet's layouts; or trees on aerial photographs, in COCO's.

    python -m piip.data.demo OUT [--train 280 --val 80 --maps 2 --crops 8 --seed 0 --sides 160 288 --objects 20 120]
    python -m piip.data.demo OUT --kind aerial [--tile 800] [--wheel FILE]

Of drawn objects the shape tells the class; the colour narrows it to three of the twelve. Pattern, outline, opacity, proportions and tilt
vary freely. The aerial photographs, four with boxes of 951 trees, are fetched with pip, from the wheel of DeepForest (20 MB, MIT licence).
"""

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro
from pydantic import AfterValidator, Field

from piip.console import run_verb
from piip.data.demo.aerial import ATTRIBUTION, Tiling, aerial_root, make_aerial
from piip.data.demo.make import Recipe, demo_root, make_demo
from piip.options import Count, CountOrNone, OutFolder, UsageError, given_file
from piip.spec import CocoSpec, Data
from piip.spec.data import words_for
from piip.spec.places import DataSpec

Side = Annotated[int, Field(ge=1, le=1024)]
"""Pixels of an image."""
Object = Annotated[int, Field(ge=4)]
"""Pixels of an object."""
Tile = Annotated[int, Field(ge=64)]
"""Pixels of a tile."""


@dataclass
class Options:
    """What `python -m piip.data.demo` is told."""

    out: Annotated[tyro.conf.Positional[OutFolder], tyro.conf.arg(metavar="OUT")]
    """A new folder, or one this command made before."""
    kind: Literal["shapes", "aerial"] = "shapes"
    """Drawn objects, or trees on aerial photographs: large images with small objects."""
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
    tile: Tile = Tiling.tile
    """Of --kind aerial: the longest side of an image; each photograph is cut into as few equal ones as that takes."""
    wheel: Annotated[Path, AfterValidator(given_file)] | None = None
    """Of --kind aerial: DeepForest's wheel, where pip reaches no index."""
    json: bool = False
    """One JSON document on stdout instead of a line."""


def main(options: Options) -> int:
    """Run the verb."""
    _check_kind(options)
    match options.kind:
        case "shapes":
            counts, words = _shapes(options)
        case "aerial":
            counts = make_aerial(options.out, Tiling(tile=options.tile), options.wheel)
            words = [f"{ATTRIBUTION} See {options.out / 'LICENSE.txt'}", *use_aerial(options.out.absolute())]
    if options.json:
        print(json.dumps({"out": str(options.out.absolute()), **counts}))
    else:
        print(f"{options.out}: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
        print("\n".join(words))
    return 0


def _check_kind(options: Options) -> None:
    """Refuses options of one kind of data that are given with the other."""
    shapes = {field.name for field in fields(Recipe)}
    foreign = {"tile", "wheel"} if options.kind == "shapes" else shapes
    for field in fields(Options):
        if field.name in foreign and getattr(options, field.name) != field.default:
            other = "aerial" if options.kind == "shapes" else "shapes"
            raise UsageError(f"--{field.name}: it is of --kind {other}, not of --kind {options.kind}")


def _shapes(options: Options) -> tuple[dict[str, int], list[str]]:
    """Draws; gives what there is, and lines that say where."""
    try:
        recipe = Recipe(**{field.name: getattr(options, field.name) for field in fields(Recipe)})
    except ValueError as error:
        raise UsageError(f"--sides, --objects: {error}") from None
    counts = make_demo(options.out, recipe)
    layouts = "boxes, masks and keypoints: annotations/*.json; label maps: ade20k/; crops, a folder a class: imagenet/"
    return counts, [layouts, *use(options.out.absolute(), recipe)]


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
            yield f"  {words_for(kind())}: piip train ROW {_typed(kind(), 'demo', out)}      # a ROW of: piip rows demo --task {kind.task}"


def use_aerial(out: Path) -> Iterator[str]:
    """How training reads a folder of aerial data: by itself, or by which flags."""
    if out.resolve() == aerial_root().resolve():
        yield "experiments/sweep_aerial.py trains on it: it lies where its rows (piip rows aerial) look for it"
        return
    yield f"the aerial rows (piip rows aerial) read {aerial_root()} alone. To train on this folder:"
    yield f"  piip train ROW {_typed(CocoSpec(), 'aerial', out)}      # a ROW of: piip rows aerial"


def _typed(data: DataSpec, name: str, out: Path) -> str:
    return " ".join(f"{flag} {shlex.quote(str(path))}" for flag, path in own_flags(data, name, out).items())


def own_flags(data: DataSpec, name: str, out: Path) -> dict[str, Path]:
    """The flags by which a row of this kind of data takes a folder of what we made, called `name`, for a user's own."""
    place, flags = data.places[name], {}
    for split, part in (("train", "training"), ("val", "validation")):
        wanted = {"annotations": place.annotations, "images": place.images} if place.apart else {"images": place.images}
        for what, path in wanted.items():
            below = path.format(split=split, part=part).removeprefix(f"{name}/")
            flags[f"--{split}-{what}"] = out / below
    return flags | ({"--names": out / place.names.removeprefix(f"{name}/")} if place.names else {})


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(Options, main, prog="python -m piip.data.demo", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(cli())
