"""COCO's numbers in the lines that pycocotools prints and that READMEs of detectors show: twelve of boxes and masks, ten of keypoints."""

from collections.abc import Mapping

from piip.metrics.coco import CocoAP

HEADINGS = {"box": "bbox", "mask": "segm", "keypoint": "keypoints"}
IOU = {"50": "0.50", "75": "0.75"}
MOST = {"1": 1, "10": 10, "100": 100}
"""Results of an image, as the names of recalls have them."""


def lines_of(metrics: Mapping[str, float], prefix: str = "") -> list[str]:
    """A heading and the lines of each kind that is scored; nothing where no metric is COCO's.

    Args:
        metrics: `coco/box_ap` and so on -> 0..1; what no object is there for is absent and printed as -1.
        prefix: In front of the names.
    """
    lines = list[str]()
    for kind, names in CocoAP.numbers.items():
        start = f"{prefix}{CocoAP.task}/{kind}_"
        if any(name.startswith(start) for name in metrics):
            lines += [f"{HEADINGS[kind]}:", *(_line(name, metrics.get(start + name, -1.0), kind) for name in names)]
    return lines


def _line(name: str, value: float, kind: str) -> str:
    """`ap50` -> ` Average Precision  (AP) @[ IoU=0.50      | area=   all | maxDets=100 ] = 0.773`."""
    measure, end = name[:2], name[2:]
    word, area = {"ap": "Average Precision", "ar": "Average Recall"}[measure], end[1:] if end.startswith("_") else "all"
    most = 20 if kind == "keypoint" else MOST.get(end, 100) if measure == "ar" else 100
    iou = IOU.get(end, "0.50:0.95")
    return f" {word:<18} ({measure.upper()}) @[ IoU={iou:<9} | area={area:>6} | maxDets={most:>3} ] = {value:0.3f}"
