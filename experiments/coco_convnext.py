"""Do convolutional and mixed branches work too? Mask R-CNN on ConvNeXt (C) and ViT (V) branches of sizes T, S and B.

    python experiments/coco_convnext.py --list
    ray job submit --working-dir . -- python experiments/coco_convnext.py --workers 16 --gpus-per-worker 1

Expect 44.8-47.1 box AP against 42.4 of ConvNeXt-B alone. Branches are merged four times on the way, where ConvNeXt changes its
stride, and not once at the end. They are trained and scored at 1333 x 800, as published: 1024, 672 and 448 are ratios.
"""

from piip.presets import CONVNEXT, IMAGENET_PIXELS, each_branch, mask_rcnn_1x, piip
from piip.spec import CNNSpec, ExperimentSpec, PaperResult
from piip.sweeps.cli import main

RECIPE = {
    "model.backbone.fpn": "regular", "model.backbone.merge_after": (0, 1, 10),
    "optim.lr": 2e-4, "optim.layer_decay": 0.8, "train.batch_size": 32,  # 2e-4 is the released rate for batches of 32
    "data.pad_multiple": 32, "data.scale": (1333, 800),
}  # fmt: skip
OFFICIAL = {"C": "convnext", "V": "vit"}


def mixed(*letters: str, box_ap: float, mask_ap: float, gflops: float, config: str = "") -> ExperimentSpec:
    """`mixed("CT", "VS", "VB", ...)`: ConvNeXt-T sees the largest image, ViT-B the smallest."""
    words = "_".join(f"{OFFICIAL[kind]}-{size.lower()}" for kind, size in letters)
    name = f"mask_rcnn_{config or words}_1024_672_448_regular-fpn"
    backbone = each_branch(
        piip(letters, (1024, 672, 448), branches=CONVNEXT, label="_".join(letters).lower()), IMAGENET_PIXELS
    )
    paper = PaperResult(box_ap=box_ap, mask_ap=mask_ap, gflops=gflops, config=name)
    return mask_rcnn_1x(backbone, paper).override(RECIPE)


COCO_ROWS = [
    mask_rcnn_1x(
        CNNSpec(arch="convnext_base.fb_in1k", resolution=1024, pretrained=True),
        PaperResult(box_ap=42.4, mask_ap=38.7, gflops=321, config="mask_rcnn_convnext-base_1024_regular-fpn"),
    ).override({"optim.layer_decay": 1.0, "data.pad_multiple": 64}),
    mixed("CT", "CS", "CB", box_ap=46.4, mask_ap=41.7, gflops=326, config="convnext-tsb"),
    mixed("CT", "VS", "VB", box_ap=47.1, mask_ap=42.4, gflops=373),
    mixed("CT", "CS", "VB", box_ap=46.8, mask_ap=42.2, gflops=431),
    mixed("CT", "VS", "CB", box_ap=46.7, mask_ap=42.0, gflops=297),
    mixed("VT", "CS", "VB", box_ap=45.4, mask_ap=40.9, gflops=291),
    mixed("VT", "CS", "CB", box_ap=45.2, mask_ap=40.7, gflops=231),
    mixed("VT", "VS", "CB", box_ap=44.8, mask_ap=40.3, gflops=193),
]

ROWS = {"coco": COCO_ROWS}

if __name__ == "__main__":
    main(ROWS, experiment="coco_convnext", description=__doc__ or "")
