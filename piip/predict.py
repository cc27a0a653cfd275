"""Draw what a run sees in images: `python -m piip.predict --run-id ID image... -o DIR`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from PIL import Image, ImageOps

from piip.data import transforms
from piip.data.coco import ImageInfo
from piip.data.images import read_image
from piip.data.masks import results_of
from piip.ops import build
from piip.reports.draw import draw_predictions
from piip.sweeps.cli import guarded, setup_logging
from piip.tracking.rebuild import Rebuilt, Which, rebuild
from piip.tracking.store import Store
from piip.training.evaluate import Results


@dataclass
class Options:
    """Draw boxes, masks and class names over your images; the pictures and predictions.json go to a folder.

    Examples:
        python -m piip.predict --run-id 546c935d... photo.jpg more/*.png -o drawn/
    """

    images: tyro.conf.Positional[tuple[Path, ...]]
    run_id: str
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    checkpoint: Which = "last"
    score_threshold: float = 0.5
    """Only predictions at least this sure are drawn; predictions.json has them all."""
    json: bool = False
    """One JSON document on stdout: file -> predictions."""


def main(options: Options) -> int:
    """Run the verb."""
    if not options.images:
        raise ValueError("no images given: name one or more image files before the flags")
    missing = [str(path) for path in options.images if not path.is_file()]
    if missing:
        raise ValueError(f"no such image: {', '.join(missing)}")
    build.load()
    rebuilt = rebuild(Store(), options.run_id, options.checkpoint)
    names = {c["id"]: c["name"] for c in rebuilt.checkpoint.manifest.categories}
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Results] = {}
    for number, path in enumerate(options.images, start=1):
        results = found[str(path)] = predict_file(rebuilt, path)
        target = options.out / f"{number:03d}_{path.stem}.png"
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            draw_predictions(upright, results, names, score_threshold=options.score_threshold).save(target)
        sure = sum(r["score"] >= options.score_threshold for r in results)
        print(f"{path} -> {target}: {sure} objects of {len(results)} candidates", file=sys.stderr)
    (options.out / "predictions.json").write_text(json.dumps(found))
    if options.json:
        print(json.dumps(found))
    return 0


def predict_file(rebuilt: Rebuilt, path: Path) -> Results:
    """Predictions of one image file, in its own pixels, as COCO results (image_id is 0)."""
    spec = rebuilt.spec
    image = read_image(path)
    height, width = image.shape[1:]
    size = transforms.resized_size(height, width, spec.model.backbone.resolution, short_ratio=spec.data.short_ratio)
    pixels = transforms.normalise(transforms.resize_image(image, size), spec.data.mean, spec.data.std)
    batch = transforms.pad([pixels], spec.data.pad_multiple)
    with torch.inference_mode():
        (prediction,) = rebuilt.model(batch, [size])
    info = ImageInfo(0, path.name, height, width, (size[0] / height, size[1] / width))
    return results_of(prediction, info, rebuilt.checkpoint.manifest.categories)


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    options = tyro.cli(Options, args=arguments)
    setup_logging()
    return guarded(lambda: main(options))


if __name__ == "__main__":
    sys.exit(cli())
