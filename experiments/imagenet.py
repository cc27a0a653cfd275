"""Image classification: PIIP of DeiT-1 and AugReg branches on ImageNet-1K.

    python experiments/imagenet.py --list
    python experiments/imagenet.py --workers 8 --gpus-per-worker 1        # $PIIP_DATA/imagenet/{train,val}/<class>/*.JPEG

Expect 82.1 top-1 from TSB, 85.2 and 85.9 from SBL, after 20 epochs from pretrained branches. Small networks on data made here:
sweep_classification.py. The printed accuracy belongs to heads that read the upper left patch, as here: the official code splits the
class tokens off one line too early (`--set model.head.head_token=class` is what was meant; `mean` reads all patches). The official
code also keeps a running mean of the weights (EMA), which no printed figure is of; it is not kept here.
"""

from piip.presets import classifier_20ep, piip
from piip.spec import BranchSpec, ExperimentSpec, PaperResult
from piip.sweeps.cli import main

DEIT_1 = {
    letter: BranchSpec(arch=f"deit_{size}_patch16_224.fb_in1k", resolution=224, drop_path=rate)
    for letter, size, rate in (("T", "tiny", 0.05), ("S", "small", 0.05), ("B", "base", 0.2))
}
AUGREG_224 = {
    letter: BranchSpec(
        arch=f"vit_{size}_patch16_224.augreg_in21k_ft_in1k", resolution=224, drop_path=rate, layer_scale=None
    )
    for letter, size, rate in (("S", "small", 0.05), ("B", "base", 0.2), ("L", "large", 0.4))
}


def sbl(resolutions: tuple[int, ...], *, top1: float, gflops: float) -> ExperimentSpec:
    config = f"piip_3branch_sbl_{'-'.join(map(str, resolutions))}_cls_token_augreg"
    backbone = piip("SBL", resolutions, branches=AUGREG_224, label="sbl_augreg")
    return classifier_20ep(backbone, PaperResult(top1=top1, params_m=489, gflops=gflops, config=config))


IMAGENET_ROWS = [
    classifier_20ep(
        piip("TSB", (368, 192, 128), branches=DEIT_1, label="tsb_deit1"),
        PaperResult(top1=82.1, params_m=144, gflops=17.4, config="piip_3branch_tsb_368-192-128_cls_token_deit1"),
    ),
    sbl((320, 160, 96), top1=85.2, gflops=39.0),
    sbl((384, 192, 128), top1=85.9, gflops=61.2),
]

ROWS = {"imagenet": IMAGENET_ROWS}

if __name__ == "__main__":
    main(ROWS, experiment="imagenet", description=__doc__ or "")
