import contextlib
import io

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from piip.metrics.coco import KEYPOINT_NUMBERS, NUMBERS
from piip.metrics.printed import lines_of


@pytest.mark.parametrize(
    ("kind", "theirs", "names"), [("mask", "segm", NUMBERS), ("keypoint", "keypoints", KEYPOINT_NUMBERS)]
)
def test_lines_are_those_of_pycocotools(kind, theirs, names):
    evaluation = COCOeval(iouType=theirs)
    shape = (10, 101, 1, len(evaluation.params.areaRng), len(evaluation.params.maxDets))
    evaluation.eval = {"precision": np.full(shape, -1.0), "recall": np.full((10, *shape[2:]), -1.0)}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluation.summarize()
    before = [line.rpartition("=")[0] for line in printed.getvalue().splitlines()]
    values = [-1.0 if k == 4 else 0.1234 + k / 20 for k in range(len(names))]  # nothing was there for one of them

    ours = lines_of({f"test/coco/{kind}_{n}": v for n, v in zip(names, values, strict=True) if v > -1}, "test/")

    assert ours == [f"{theirs}:", *(f"{line}= {value:.3f}" for line, value in zip(before, values, strict=True))]


def test_other_metrics_have_no_lines():
    assert lines_of({"ade20k/miou": 0.5, "lvis/box_ap": 0.1}) == []
    (heading, first, *_) = lines_of({"coco/box_ap": 0.5584})
    assert heading == "bbox:"
    assert first == " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.558"
