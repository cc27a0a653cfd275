"""The paper's words: branch letters, PIIP combinations, detector and schedule presets. Imports no torch.

A family is a dict from letter to branch; `window` follows the combination and not the branch: 14 for TSB, 28 for SBL and TSBL.
"""

from collections.abc import Mapping, Sequence

from piip.spec import (
    Backbone,
    BranchSpec,
    ClassifierSpec,
    CNNSpec,
    CocoSpec,
    DINOSpec,
    ExperimentSpec,
    InteractionSpec,
    MaskRCNNSpec,
    ModelSpec,
    OptimSpec,
    PaperResult,
    PIIPSpec,
    TrainSpec,
    UPerNetSpec,
)

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""RGB, in 0..255."""

DEIT = {
    "T": BranchSpec(arch="deit_tiny_patch16_224.fb_in1k", resolution=224, drop_path=0.05),
    "S": BranchSpec(arch="deit3_small_patch16_224.fb_in22k_ft_in1k", resolution=224, drop_path=0.05),
    "B": BranchSpec(arch="deit3_base_patch16_224.fb_in22k_ft_in1k", resolution=224, drop_path=0.15),
    "L": BranchSpec(arch="deit3_large_patch16_224.fb_in22k_ft_in1k", resolution=224, drop_path=0.4),
}
"""The released detection branches."""

DEIT_384 = {
    letter: branch.override({"arch": branch.arch.replace("224", "384")})
    for letter, branch in DEIT.items()
    if letter != "T"
}
"""DeiT III finished at 384 pixels: the SBL of DINO, the L of LH6B."""

AUGREG = {
    letter: BranchSpec(
        arch=f"vit_{size}_patch16_384.augreg_in21k_ft_in1k", resolution=384, drop_path=rate, drop_path_rule="linear",
        checkpointing=True,
    )
    for letter, size, rate in (("S", "small", 0.2), ("B", "base", 0.3), ("L", "large", 0.4))
}  # fmt: skip

MAE = {
    "S": DEIT["S"],
    **{
        letter: BranchSpec(
            arch=f"vit_{size}_patch{patch}_224.mae", resolution=224, drop_path=rate, drop_path_rule="linear",
            patch_size=16, checkpointing=True,
        )
        for letter, size, patch, rate in (("B", "base", 16, 0.15), ("L", "large", 16, 0.4), ("H", "huge", 14, 0.4))
    },
}  # fmt: skip

DINOV2 = {
    letter: BranchSpec(
        arch=f"vit_{size}_patch14_dinov2.lvd142m", resolution=518, drop_path=rate, drop_path_rule="linear",
        patch_size=16, checkpointing=True,
    )
    for letter, size, rate in (("S", "small", 0.2), ("B", "base", 0.3), ("L", "large", 0.4))
}  # fmt: skip
"""The official table calls its S branch DeiT III; its configuration, and so its weights, have DINOv2-S."""

BEITV2 = {
    "S": DEIT["S"],
    **{
        letter: BranchSpec(
            arch=f"beitv2_{size}_patch16_224.in1k_ft_in22k", resolution=224, drop_path=rate, drop_path_rule="linear"
        )
        for letter, size, rate in (("B", "base", 0.15), ("L", "large", 0.4))
    },
}

UNIPERCEIVER = {
    "S": DEIT["S"],
    **{
        letter: BranchSpec(
            arch=f"uniperceiver_{size}_patch16_224", resolution=224, drop_path=rate, drop_path_rule="linear"
        )
        for letter, size, rate in (("B", "base", 0.15), ("L", "large", 0.4))
    },
}

INTERNVIT = {
    "L": DEIT_384["L"].override({"window": None}),
    "H": MAE["H"].override({"window": None}),
    "6B": BranchSpec(
        arch="internvit_6b_patch14_224", resolution=224, drop_path=0.4, drop_path_rule="linear", window=None,
        patch_size=16, layer_scale=0.1, checkpointing=True,
    ),
}  # fmt: skip
"""The company of InternViT-6B; all attention is global."""

CONVNEXT = {
    **{
        letter: BranchSpec(
            arch=f"convnext_{size}.fb_in1k", resolution=224, drop_path=rate, drop_path_rule="linear", window=None
        )
        for letter, size, rate in (("CT", "tiny", 0.3), ("CS", "small", 0.3), ("CB", "base", 0.4))
    },
    **{f"V{letter}": branch for letter, branch in DEIT.items()},
}
"""C: ConvNeXt, V: ViT (DeiT); they go together in the networks with a regular FPN."""

PICO = {
    "T": BranchSpec(arch="pico_tiny.glyphs", resolution=256, drop_path=0.0, window=8),
    "S": BranchSpec(arch="pico_small.glyphs", resolution=192, drop_path=0.0, window=8),
    "B": BranchSpec(arch="pico_base.glyphs", resolution=128, drop_path=0.0, window=16),
}
"""Branches small enough to train on two CPU cores; pretrained by experiments/pretrain_pico.py on generated images."""


def piip(
    letters: Sequence[str],
    resolutions: Sequence[int],
    *,
    branches: Mapping[str, BranchSpec] = DEIT,
    window: int | tuple[int | None, ...] | None = None,
    interaction: InteractionSpec = InteractionSpec(),  # noqa: B008 (frozen)
    label: str | None = None,
) -> PIIPSpec:
    """`piip("TSB", (1120, 896, 448))`: the smallest model sees the largest image.

    Args:
        letters: Of `branches`; a sequence where letters are longer, as ("H", "6B").
        resolutions: One per letter, falling.
        branches: The family.
        window: Attention window of every block of every branch, or a pattern that is repeated; None leaves the family's.
        interaction: How neighbours exchange features.
        label: The middle of the row's name; None: the letters.
    """
    if len(letters) != len(resolutions):
        raise ValueError(
            f"PIIP-{''.join(letters)} has {len(letters)} branches but {len(resolutions)} resolutions: {tuple(resolutions)}"
        )
    unknown = sorted(set(letters) - set(branches))
    if unknown:
        raise ValueError(f"no branch {unknown} in this family; it has {sorted(branches)}")
    change: dict[str, object] = {} if window is None else {"window": window}
    chosen = tuple(
        branches[letter].override({"resolution": side, **change})
        for letter, side in zip(letters, resolutions, strict=True)
    )
    return PIIPSpec(label=label or "".join(letters).lower(), branches=chosen, interaction=interaction)


def each_branch(backbone: PIIPSpec, changes: Mapping[str, object]) -> PIIPSpec:
    """`backbone` with the same fields changed in all its branches."""
    return backbone.override(
        {f"branches.{i}.{name}": value for i in range(len(backbone.branches)) for name, value in changes.items()}
    )


def speedup(backbone: PIIPSpec) -> PIIPSpec:
    """The published "faster training" form: interactions without projections and norms, MLPs with tanh-GELU."""
    fast = each_branch(backbone, {"activation": "gelu_tanh"})
    changes = {"interaction.projection": False, "interaction.norms": False, "label": f"{backbone.label}_speedup"}
    return fast.override(changes)


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


def dino(backbone: PIIPSpec, paper: PaperResult | None = None, *, epochs: int) -> ExperimentSpec:
    """DINO (4 scales) on COCO: batch 32, lr 2e-4, 0.1 x at 2/3 and 11/12 of the epochs (3/4 and 11/12 of 36). Its head comes later."""
    return ExperimentSpec(
        name=f"dino_{backbone_name(backbone)}_{epochs // 12}x",
        model=ModelSpec(backbone=backbone.override({"out_strides": (8, 16, 32)}), head=DINOSpec()),
        optim=OptimSpec(lr=2e-4, milestones=(27 / 36 if epochs == 36 else 8 / 12, 11 / 12)),
        train=TrainSpec(batch_size=32, epochs=epochs, precision="bf16", zero_stage=1),
        paper=paper,
    )


def upernet_80k(backbone: PIIPSpec, paper: PaperResult | None = None) -> ExperimentSpec:
    """UperNet on ADE20K, crops of 512: 80000 steps of 16, lr 4e-5, layer decay 0.95. Head and data set come later."""
    return ExperimentSpec(
        name=f"upernet_{backbone_name(backbone)}_80k",
        model=ModelSpec(backbone=each_branch(backbone, {"positions": "resolution"}), head=UPerNetSpec()),
        data=CocoSpec(name="ade20k", short_ratio=1.0, pad_multiple=16, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        optim=OptimSpec(lr=4e-5, layer_decay=0.95, warmup_steps=1500, warmup_ratio=1e-6),
        train=TrainSpec(batch_size=16, steps=80_000, precision="bf16", zero_stage=1),
        paper=paper,
    )


def classifier_20ep(backbone: PIIPSpec, paper: PaperResult | None = None) -> ExperimentSpec:
    """ImageNet-1K, as released: a head per branch on its first patch; 20 epochs of 1024, lr 3e-5. The data set comes later."""
    whole = each_branch(
        backbone, {"positions": "resolution", "class_token": True, "window": None, "checkpointing": True}
    )
    constant = each_branch(whole, {"drop_path_rule": "constant"})
    return ExperimentSpec(
        name=f"classifier_{backbone_name(backbone)}_20ep",
        model=ModelSpec(backbone=constant.override({"fpn": "none"}), head=ClassifierSpec(head_token="first_patch")),
        data=CocoSpec(name="imagenet", short_ratio=1.0, pad_multiple=16, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        optim=OptimSpec(lr=3e-5, groups="classification", weight_decay=0.1, layer_decay=1.0, schedule="cosine"),
        train=TrainSpec(batch_size=1024, epochs=20),
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
        optim=OptimSpec(lr=lr, layer_decay=1.0, warmup_steps=30, schedule="cosine", clip_norm=1.0),
        train=TrainSpec(batch_size=4, steps=steps, log_every=5),
    )
