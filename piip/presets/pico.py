"""Networks and recipes small enough for two CPU cores and the demo data."""

from collections.abc import Sequence

from piip.presets.combine import piip
from piip.spec import (
    Ade20kSpec,
    Backbone,
    BranchSpec,
    CascadeMaskRCNNSpec,
    CascadeRCNNSpec,
    ClassifierSpec,
    CocoSpec,
    DINOSpec,
    ExperimentSpec,
    FasterRCNNSpec,
    ImageNetSpec,
    InteractionSpec,
    KeypointRCNNSpec,
    KeypointsSpec,
    MaskRCNNSpec,
    ModelSpec,
    OptimSpec,
    PIIPSpec,
    RetinaNetSpec,
    TrainSpec,
    UPerNetSpec,
)

PICO = {
    "T": BranchSpec(arch="pico_tiny.glyphs", resolution=256, drop_path=0.0, window=8),
    "S": BranchSpec(arch="pico_small.glyphs", resolution=192, drop_path=0.0, window=8),
    "B": BranchSpec(arch="pico_base.glyphs", resolution=128, drop_path=0.0, window=16),
}
"""Branches small enough to train on two CPU cores; pretrained by experiments/pretrain_pico.py on generated images."""

PICO_INTERACTION = InteractionSpec(count=3, num_heads=8, drop_path=0.0)


def pico(letters: str, resolutions: Sequence[int], *, pretrained: bool = True) -> PIIPSpec:
    """`pico("TSB", (256, 192, 128))`: a PIIP of pico branches; one letter is a single-branch ViT."""
    branches = {letter: branch.override({"pretrained": pretrained}) for letter, branch in PICO.items()}
    return piip(letters, resolutions, branches=branches, interaction=PICO_INTERACTION)


PICO_HEAD = MaskRCNNSpec(
    num_classes=12, fpn_channels=96, anchor_scale=4, rpn_pre_nms=500, rpn_post_nms=150,
    box_samples=64, box_channels=256, mask_convs=1, mask_channels=96,
)  # fmt: skip


_SMALL = PICO_HEAD.model_dump(exclude={"kind", "mask_convs", "mask_channels"})
PICO_DETECTORS = {
    "faster_rcnn": FasterRCNNSpec(**_SMALL),
    "mask_rcnn": PICO_HEAD,
    "cascade_rcnn": CascadeRCNNSpec(**_SMALL),
    "cascade_mask_rcnn": CascadeMaskRCNNSpec(**_SMALL, mask_convs=1, mask_channels=96),
    "keypoint_rcnn": KeypointRCNNSpec(**_SMALL, num_keypoints=4, keypoint_convs=2, keypoint_channels=96),
    "retinanet": RetinaNetSpec(num_classes=12, fpn_channels=96, anchor_scale=2, pre_nms=250, tower_norm="group"),
}
"""Anchors begin at 16 pixels in all of them: the demo's objects are small."""


def mask_rcnn_pico(backbone: Backbone, *, steps: int, lr: float = 1e-3) -> ExperimentSpec:
    """Mask R-CNN on the demo data, small enough for two CPU cores; all pico rows share these settings."""
    return detector_pico("mask_rcnn", backbone, steps=steps, lr=lr)


def detector_pico(head: str, backbone: Backbone, *, steps: int, lr: float = 1e-3) -> ExperimentSpec:
    """A detector of `PICO_DETECTORS` on the demo data, as `mask_rcnn_pico`."""
    data = KeypointsSpec if PICO_DETECTORS[head].learned_keypoints else CocoSpec
    return ExperimentSpec(
        name=f"{head}_{backbone.row_name}_pico{steps}",
        model=ModelSpec(backbone=backbone, head=PICO_DETECTORS[head]),
        data=data(name="demo", short_ratio=1.0, pad_multiple=32),
        optim=OptimSpec(lr=lr, layer_decay=1.0, warmup_steps=30, schedule="cosine", clip_norm=1.0),
        train=TrainSpec(batch_size=4, steps=steps, log_every=5),
    )


PICO_DINO = DINOSpec(
    num_classes=12, num_queries=100, embed_dim=128, encoder_layers=2, decoder_layers=3, ffn_dim=256, denoising_queries=50,
    max_detections=100,
)  # fmt: skip


def dino_pico(backbone: Backbone, *, steps: int, lr: float = 5e-4) -> ExperimentSpec:
    """DINO on the demo data, small enough for two CPU cores: fewer layers and queries than published, the same losses and matching."""
    return ExperimentSpec(
        name=f"dino_{backbone.row_name}_pico{steps}",
        model=ModelSpec(backbone=backbone, head=PICO_DINO),
        data=CocoSpec(name="demo", short_ratio=1.0, pad_multiple=32),
        optim=OptimSpec(lr=lr, layer_decay=1.0, warmup_steps=30, schedule="cosine", clip_norm=0.1),
        train=TrainSpec(batch_size=4, steps=steps, log_every=5),
    )


def classifier_pico(backbone: Backbone, *, steps: int, lr: float = 1.5e-3) -> ExperimentSpec:
    """Classification of the demo data's single objects, small enough for two CPU cores; all pico rows share these settings.

    A PIIP or a ViT gives the mean of its patches, any other network its coarsest map. The published recipe's mixing and RandAugment are
    for a million images and 20 epochs; here crops are large, flips stay, and what is mixed or recoloured would hide the few pixels there
    are.
    """
    reads = "tokens" if isinstance(backbone, PIIPSpec) else "map"
    return ExperimentSpec(
        name=f"classifier_{backbone.row_name}_pico{steps}",
        model=ModelSpec(backbone=backbone, head=ClassifierSpec(num_classes=12, reads=reads)),
        data=ImageNetSpec(name="demo", train_scale=(0.6, 1.0), rand_augment=None, mixup=0.0, cutmix=0.0),
        optim=OptimSpec(lr=lr, layer_decay=1.0, warmup_steps=30, schedule="cosine", clip_norm=1.0),
        train=TrainSpec(batch_size=32, steps=steps, log_every=5),
    )


PICO_UPERNET = UPerNetSpec(num_classes=13, channels=64)


def upernet_pico(backbone: Backbone, *, steps: int, lr: float = 2e-3) -> ExperimentSpec:
    """UperNet on the demo data, small enough for two CPU cores: `upernet_80k` but for sizes, a higher rate and no layer decay.

    What is behind the twelve shapes is a class of its own there, "other": every pixel is learned and scored. Colours stay, as they
    tell classes apart, and sizes vary less, as there are hundreds of steps and not 80000.
    """
    return ExperimentSpec(
        name=f"upernet_{backbone.row_name}_pico{steps}",
        model=ModelSpec(backbone=backbone, head=PICO_UPERNET),
        data=Ade20kSpec(name="demo", reduce_zero_label=False, train_ratio=(0.8, 1.25), photometric=False),
        optim=OptimSpec(lr=lr, layer_decay=1.0, warmup_steps=30, schedule="poly", clip_norm=1.0),
        train=TrainSpec(batch_size=4, steps=steps, log_every=5),
    )
