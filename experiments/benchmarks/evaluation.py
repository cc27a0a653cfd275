"""How long does COCO evaluation take as the repository does it, against pycocotools, and are the numbers equal?

    PYTHONPATH=. python experiments/benchmarks/evaluation.py                       # up to 1000 images of 100 detections, some minutes
    PYTHONPATH=. python experiments/benchmarks/evaluation.py --images 5000 --detections 100 --masks no --json

Annotations and detections are made: eight objects an image in ten classes, octagons; half of the detections near an object. Both
evaluators start with the annotation file and the list of results and give the twelve numbers of boxes and, with masks, the twelve of
masks; where any differs in its last bit there is no time to report. One thread, median of CPU time.
"""

import contextlib
import io
import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timing
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from piip.data.formats import coco_json
from piip.data.samples import ImageInfo
from piip.data.sources import Source
from piip.metrics.coco import KINDS, NUMBERS, CocoAP, Truth

CLASSES, OBJECTS, HEIGHT, WIDTH = 10, 8, 480, 640
Results = list[dict[str, Any]]


def make(images: int, detections: int, *, masks: bool) -> tuple[dict[str, Any], Results]:
    """An annotation document and results, the same every time."""
    rng = np.random.default_rng(0)
    annotations: Results = []
    results: Results = []
    for image_id in range(1, images + 1):
        sides = np.exp(rng.uniform(np.log(12), np.log(240), (OBJECTS, 2)))
        boxes = np.hstack([rng.uniform(0, 1, (OBJECTS, 2)) * ((WIDTH, HEIGHT) - sides), sides])
        classes = rng.integers(1, CLASSES + 1, OBJECTS)
        for category, box in zip(classes.tolist(), boxes.tolist(), strict=True):
            number, area = len(annotations) + 1, box[2] * box[3]
            entry = {"id": number, "image_id": image_id, "category_id": category, "bbox": box, "area": area}
            annotations.append(entry | {"iscrowd": 0, "segmentation": [octagon(box)]})
        for number in range(detections):
            at, near = int(rng.integers(OBJECTS)), number % 2 == 0
            moved = boxes[at] + np.tile(boxes[at][2:], 2) * rng.normal(0, 0.08, 4)
            box = moved if near else rng.uniform(10, 200, 4)
            box = np.concatenate([box[:2].clip(0, (WIDTH - 9, HEIGHT - 9)), box[2:].clip(8)]).tolist()
            category = int(classes[at]) if near else int(rng.integers(1, CLASSES + 1))
            result = {
                "image_id": image_id,
                "category_id": category,
                "bbox": box,
                "score": float(rng.uniform() * (2 + near) / 3),
            }
            results.append(result | ({"segmentation": run_lengths(box)} if masks else {}))
    document = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": c, "name": str(c)} for c in range(1, CLASSES + 1)],
    }
    return document, results


def octagon(box: list[float]) -> list[float]:
    """A box with its corners cut, as a polygon."""
    (x, y, w, h), a, b = box, 0.3, 0.7
    corners = ((a, 0), (b, 0), (1, a), (1, b), (b, 1), (a, 1), (0, b), (0, a))
    return [number for across, down in corners for number in (x + across * w, y + down * h)]


def run_lengths(box: list[float]) -> dict[str, Any]:
    """The octagon as results have it."""
    made: Any = rle.frPyObjects([octagon(box)], HEIGHT, WIDTH)[0]  # pyright: ignore[reportArgumentType, reportCallIssue]
    return {"size": made["size"], "counts": made["counts"].decode("ascii")}


def ours(source: Source, results: Results) -> dict[str, float]:
    """As training and `python -m piip.eval` score on two workers: image by image, states merged, annotations read anew."""
    coco_json.forget()
    truth = Truth.of(coco_json.read_checked(source.annotations), masks="segmentation" in results[0])
    found: dict[int, Results] = defaultdict(list)
    for result in results:
        found[result["image_id"]].append(result)
    workers = [CocoAP(truth), CocoAP(truth)]
    for number, (image_id, image) in enumerate(truth.images.items()):
        info = ImageInfo(image_id, image["file_name"], image["height"], image["width"])
        workers[number % 2].update(found[image_id], info)
    metric = CocoAP(truth)
    metric.merge([worker.state() for worker in workers])
    return metric.compute()


def pycocotools(source: Source, results: Results) -> dict[str, float]:
    """The original's numbers, under our names."""
    numbers: dict[str, float] = {}
    for name, kind in KINDS.items():
        if name == "keypoint" or (kind == "segm" and "segmentation" not in results[0]):
            continue
        other = {"bbox": "segmentation", "segm": "bbox"}[kind]  # the kind that is scored decides a result's area
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(source.annotations))
            entries: Any = [{k: v for k, v in result.items() if k != other} for result in results]
            found = truth.loadRes(entries)
            evaluation = COCOeval(truth, found, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        numbers |= {
            f"coco/{name}_{part}": float(n) for part, n in zip(NUMBERS, evaluation.stats, strict=True) if n > -1
        }
    return numbers


def measure(images: int, detections: int, *, masks: bool, rounds: int) -> timing.Row:
    """One row.

    Raises:
        SystemExit: The numbers are not equal.
    """
    document, results = make(images, detections, masks=masks)
    with tempfile.TemporaryDirectory() as folder:
        source = Source(Path(folder) / "annotations.json", Path(folder))
        source.annotations.write_text(json.dumps(document))
        found, wanted = ours(source, results), pycocotools(source, results)
        away = (
            max(abs(found[name] - wanted[name]) for name in wanted) if found.keys() == wanted.keys() else float("inf")
        )
        if away:
            raise SystemExit(f"{images} images: ours {found} is not pycocotools' {wanted}; no time is worth reporting.")
        methods = {"ours": lambda: ours(source, results), "pycocotools": lambda: pycocotools(source, results)}
        seconds = timing.interleaved(methods, rounds=rounds, seconds=0.0)
    return {
        "images": images,
        "detections an image": detections,
        "what": "boxes and masks" if masks else "boxes",
        "ours s": seconds["ours"],
        "pycocotools s": seconds["pycocotools"],
        "x pycocotools": seconds["pycocotools"] / seconds["ours"],
        "box AP": found["coco/box_ap"],
        "largest difference": away,
    }


@dataclass
class Options(timing.Options):
    """What this benchmark is told."""

    rounds: int = 3
    """Turns of each method."""
    images: tuple[int, ...] = (100, 300, 1000)
    """Numbers of images, one after the other."""
    detections: tuple[int, ...] = (10, 100)
    """Detections of an image, one after the other."""
    masks: Literal["yes", "no", "both"] = "both"
    """Whether masks are scored, too."""


def main() -> None:
    """Measures what was asked for and prints a table."""
    given = timing.given(Options, __doc__)
    torch.set_num_threads(1)
    rows: list[timing.Row] = []
    summary: timing.Row = {}
    for masks in {"yes": (True,), "no": (False,), "both": (False, True)}[given.masks]:
        for detections in given.detections:
            same = []
            for images in given.images:
                timing.progress(f"{images} images of {detections}, {'masks too' if masks else 'boxes'}")
                same.append(measure(images, detections, masks=masks, rounds=given.rounds))
                timing.progress(f"    {same[-1]['ours s']:.3g} s, pycocotools {same[-1]['pycocotools s']:.3g} s")
            for who in ("ours", "pycocotools"):
                power = timing.exponent(given.images, [float(str(row[f"{who} s"])) for row in same])
                summary[f"{who}, {same[0]['what']}, {detections} detections: exponent over images"] = power
            rows += same
    timing.report(rows, as_json=given.json, summary=summary)


if __name__ == "__main__":
    main()
