"""Semantic segmentation: UperNet on InternViT-6B, and on PIIP-H6B with 6B at four resolutions.

    python experiments/ade20k_upernet.py --list
    ray job submit --working-dir . -- python experiments/ade20k_upernet.py --workers 8 --gpus-per-worker 1

Expect 58.4 mIoU from InternViT-6B, 58.4 from H6B 512/256 at 37 % of its FLOPs, 59.9 from 512/512. InternViT-6B's weights are a file of
their own: --set model.backbone.branches.1.weights=PATH. Small twins that train on made-up data: experiments/sweep_segmentation.py.
"""

from piip.presets import INTERNVIT, each_branch, piip, speedup, upernet_80k
from piip.spec import ExperimentSpec, PaperResult
from piip.sweeps.cli import main


def h6b(resolution: int, *, miou: float, params_m: float, gflops: float) -> ExperimentSpec:
    """MAE-H on the crop of 512, InternViT-6B on `resolution`; all rows are in the "faster training" form."""
    backbone = speedup(piip(("H", "6B"), (512, resolution), branches=INTERNVIT)).override({"label": "h6b"})
    config = f"upernet_internvit_h6b_{resolution}_512_80k_ade20k_bs16_lr4e-5"
    return upernet_80k(backbone, PaperResult(miou=miou, params_m=params_m, gflops=gflops, config=config))


ADE20K_ROWS = [
    upernet_80k(
        each_branch(piip(("6B",), (512,), branches=INTERNVIT), {"activation": "gelu_tanh"}),
        PaperResult(miou=58.42, params_m=5910, gflops=6364, config="upernet_internvit_6b_512_80k_ade20k_bs16_lr4e-5"),
    ),
    h6b(192, miou=57.81, params_m=6745, gflops=1663),
    h6b(256, miou=58.35, params_m=6745, gflops=2354),
    h6b(384, miou=59.32, params_m=6746, gflops=4374),
    h6b(512, miou=59.85, params_m=6747, gflops=7308),
]

ROWS = {"ade20k": ADE20K_ROWS}

if __name__ == "__main__":
    main(ROWS, experiment="ade20k_upernet", description=__doc__ or "")
