"""Lines of the paper that more than one experiment picks: Mask R-CNN 1x on COCO with DeiT branches (main detection table)."""

from piip.presets.combine import piip
from piip.presets.recipes import mask_rcnn_1x
from piip.spec import ExperimentSpec, PaperResult

_WINDOWS = {"TSB": 14, "SBL": 28}


def paper_row(
    letters: str, resolutions: tuple[int, ...], *, ap: tuple[float, float], cost: tuple[float, float] | None
) -> ExperimentSpec:
    """A line of the table.

    Args:
        letters: TSB or SBL, the smallest network first.
        resolutions: Nominal sides in pixels, the largest first.
        ap: Printed box and mask AP.
        cost: Printed parameters in millions and FLOPs in G (multiply-adds), where the paper prints them.
    """
    params_m, gflops = cost or (None, None)
    config = f"mask_rcnn_deit_{letters.lower()}_{'_'.join(map(str, resolutions))}_fpn_1x_coco_bs16"
    paper = PaperResult(box_ap=ap[0], mask_ap=ap[1], params_m=params_m, gflops=gflops, config=config)
    return mask_rcnn_1x(piip(letters, resolutions, window=_WINDOWS[letters]), paper)


TSB = [
    paper_row("TSB", (1120, 896, 448), ap=(43.6, 38.7), cost=(146, 243)),
    paper_row("TSB", (1568, 896, 448), ap=(45.0, 40.3), cost=(147, 287)),
    paper_row("TSB", (1568, 1120, 672), ap=(46.5, 41.3), cost=(149, 453)),
]
SBL = [
    paper_row("SBL", (1120, 672, 448), ap=(46.5, 40.8), cost=(493, 727)),
    paper_row("SBL", (1344, 896, 448), ap=(48.3, 42.7), cost=(495, 1002)),
    paper_row("SBL", (1568, 896, 672), ap=(49.3, 43.7), cost=(497, 1464)),
]
SBL_LARGEST = paper_row("SBL", (1568, 1120, 672), ap=(50.0, 44.4), cost=None)
"""Of the table of pretrainings."""
