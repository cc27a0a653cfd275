"""What do the published detectors of MPViT, the network of several patch sizes in every stage, cost and score? RetinaNet and Mask R-CNN.

    python experiments/coco_mpvit.py --scale pico     # two CPU cores, data it makes, about five minutes a row on both
    python experiments/coco_mpvit.py --list           # the paper's rows and what they cost; 8 GPUs, a day to a week a row

Expect 41.8 box AP of RetinaNet on T to 49.5 of Mask R-CNN on B at many scales. All start from ImageNet weights, a file of their authors':
--set model.weights=mpvit_tiny.pth --set model.weights_partial=true. Compare MPViT-S with PIIP-TSB 1568/1120/672 (coco_mask_rcnn.py):
46.4 box AP and 46.5 in 1x, but other sizes, pretraining and rates.
"""

from typing import Literal

from piip.presets import MPVIT, detector_pico, detectron2_adamw
from piip.spec import ExperimentSpec, MaskRCNNSpec, MPViTSpec, PaperResult, RetinaNetSpec
from piip.sweeps.cli import main

TIMES: tuple[Literal[1, 3], ...] = (1, 3)
MASK_RCNN = MaskRCNNSpec(dialect="detectron2")
# box AP in 1x and 3x, box and mask AP in 1x and 3x, then what both cost: parameters in millions, FLOPs in G
PRINTED = {
    "T4": ((41.8, 44.4), ((42.2, 39.0), (44.8, 41.0)), (17, 196), (28, 216)),
    "XS": ((43.8, 46.1), ((44.2, 40.4), (46.6, 42.3)), (20, 211), (30, 231)),
    "S": ((45.7, 47.6), ((46.4, 42.4), (48.4, 43.9)), (32, 248), (43, 268)),
    "B": ((47.0, 48.3), ((48.2, 43.5), (49.5, 44.5)), (85, 482), (95, 503)),
}
T_OR_T4 = (
    "MPViT-T's printed cost is that of MLP ratio 4 (mpvit_t4); its code and its ImageNet weights have 2 (mpvit_t). Which of them was "
    "trained to the printed AP, its files tell (piip convert)"
)


def rows(size: str) -> list[ExperimentSpec]:
    """RetinaNet and Mask R-CNN, 1x and 3x, of a size."""
    retinanet, mask_rcnn, *costs = PRINTED["T4" if size == "T" else size]
    backbone, note = MPVIT[size], T_OR_T4 if size in ("T", "T4") else None
    (params, gflops), (other_params, other_gflops) = costs if size != "T" else ((None, None), (None, None))
    made = []
    for times, box_ap, (other_box_ap, mask_ap) in zip(TIMES, retinanet, mask_rcnn, strict=True):
        one = PaperResult(box_ap=box_ap, params_m=params, gflops=gflops, note=note)
        other = PaperResult(box_ap=other_box_ap, mask_ap=mask_ap, params_m=other_params, gflops=other_gflops, note=note)
        made.append(detectron2_adamw(RetinaNetSpec(), backbone, one, times=times))
        made.append(detectron2_adamw(MASK_RCNN, backbone, other, times=times))
    return made


PICO = MPViTSpec(label="pico", resolution=192, channels=(24, 32, 48, 64), paths=(1, 2, 2, 2), depths=(1, 1, 2, 1))
"""Some 0.6 million parameters."""

ROWS = {
    "pico": [detector_pico(head, PICO, steps=600) for head in ("retinanet", "mask_rcnn")],
    "coco": [row for size in MPVIT for row in rows(size)],
}

if __name__ == "__main__":
    main(ROWS, experiment="coco_mpvit", description=__doc__ or "")
