"""The paper's words: branch letters, PIIP combinations, detector and schedule presets. Imports no torch."""

from collections.abc import Mapping, Sequence

from piip.spec import (
    Backbone,
    BranchSpec,
    CNNSpec,
    CocoSpec,
    ExperimentSpec,
    InteractionSpec,
    MaskRCNNSpec,
    ModelSpec,
    OptimSpec,
    PaperResult,
    PIIPSpec,
    TrainSpec,
)

DEIT = {
    "T": BranchSpec(arch="deit_tiny_patch16_224.fb_in1k", resolution=224, drop_path=0.05),
    "S": BranchSpec(arch="deit3_small_patch16_224.fb_in22k_ft_in1k", resolution=224, drop_path=0.05),
    "B": BranchSpec(arch="deit3_base_patch16_224.fb_in22k_ft_in1k", resolution=224, drop_path=0.15),
    "L": BranchSpec(arch="deit3_large_patch16_224.fb_in22k_ft_in1k", resolution=224, drop_path=0.4),
}
"""The released detection branches; `window` follows the combination, not the branch (14 for TSB, 28 for SBL and TSBL)."""

PICO = {
    "T": BranchSpec(arch="pico_tiny.glyphs", resolution=256, drop_path=0.0, window=8),
    "S": BranchSpec(arch="pico_small.glyphs", resolution=192, drop_path=0.0, window=8),
    "B": BranchSpec(arch="pico_base.glyphs", resolution=128, drop_path=0.0, window=16),
}
"""Branches small enough to train on two CPU cores; pretrained by experiments/pretrain_pico.py on generated images."""


def piip(
    letters: str,
    resolutions: Sequence[int],
    *,
    branches: Mapping[str, BranchSpec] = DEIT,
    window: int | None = None,
    interaction: InteractionSpec = InteractionSpec(),  # noqa: B008 (frozen)
) -> PIIPSpec:
    """`piip("TSB", (1120, 896, 448))`: the smallest model sees the largest image."""
    if len(letters) != len(resolutions):
        raise ValueError(
            f"PIIP-{letters} has {len(letters)} branches but {len(resolutions)} resolutions: {tuple(resolutions)}"
        )
    unknown = sorted(set(letters) - set(branches))
    if unknown:
        raise ValueError(f"no branch {unknown} in this family; it has {sorted(branches)}")
    change = {} if window is None else {"window": window}
    chosen = tuple(
        branches[letter].override({"resolution": side, **change})
        for letter, side in zip(letters, resolutions, strict=True)
    )
    return PIIPSpec(label=letters.lower(), branches=chosen, interaction=interaction)


PICO_INTERACTION = InteractionSpec(count=3, num_heads=8, drop_path=0.0)


def pico(letters: str, resolutions: Sequence[int], *, pretrained: bool = True) -> PIIPSpec:
    """`pico("TSB", (256, 192, 128))`: a PIIP of pico branches; one letter is a single-branch ViT."""
    branches = {letter: branch.override({"pretrained": pretrained}) for letter, branch in PICO.items()}
    return piip(letters, resolutions, branches=branches, interaction=PICO_INTERACTION)


def backbone_name(backbone: Backbone) -> str:
    """`piip_tsb_1120_896_448`, `vit_b_scratch_256`, `resnet18_256`: the middle of a row's name."""
    match backbone:
        case PIIPSpec():
            kind = "piip" if len(backbone.branches) > 1 else "vit"
            start = [] if all(b.pretrained for b in backbone.branches) else ["scratch"]
            return "_".join([kind, backbone.label, *start, *(str(b.resolution) for b in backbone.branches)])
        case CNNSpec():
            return f"{backbone.arch.split('.')[0]}_{backbone.resolution}"


def mask_rcnn_1x(backbone: Backbone, paper: PaperResult | None = None) -> ExperimentSpec:
    """Mask R-CNN on COCO: 12 epochs, batch 16, AdamW with layer decay 0.85, bf16 (paper, appendix; released configs "bs16")."""
    return ExperimentSpec(
        name=f"mask_rcnn_{backbone_name(backbone)}_1x",
        model=ModelSpec(backbone=backbone, head=MaskRCNNSpec()),
        train=TrainSpec(batch_size=16, epochs=12, precision="bf16", zero_stage=1),
        paper=paper,
    )


PICO_HEAD = MaskRCNNSpec(
    num_classes=12, fpn_channels=96, anchor_scale=4, rpn_pre_nms=500, rpn_post_nms=150,
    box_samples=64, box_channels=256, mask_convs=1, mask_channels=96,
)  # fmt: skip


def mask_rcnn_pico(backbone: Backbone, *, steps: int, lr: float = 1e-3) -> ExperimentSpec:
    """Mask R-CNN on the demo data, small enough for two CPU cores; all pico rows share these settings."""
    return ExperimentSpec(
        name=f"mask_rcnn_{backbone_name(backbone)}_pico{steps}",
        model=ModelSpec(backbone=backbone, head=PICO_HEAD),
        data=CocoSpec(name="demo", short_ratio=1.0, pad_multiple=32),
        optim=OptimSpec(lr=lr, layer_decay=1.0, warmup_steps=30, milestones=(0.8,), clip_norm=1.0),
        train=TrainSpec(batch_size=4, steps=steps, log_every=5),
    )
