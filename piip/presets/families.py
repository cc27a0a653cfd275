"""Families of pretrained branches: a dict from the paper's letter to a branch. `window` follows the combination, not the branch."""

from typing import Any

from piip.spec import BranchSpec, CascadeMaskRCNNSpec, InternImageSpec, MPViTSpec

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""RGB, in 0..255."""

IMAGENET_PIXELS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
"""For `each_branch`: branches that see what ImageNet's pretraining saw; all others see -1..1."""

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


def _internimage(label: str, channels: int, depths: tuple[int, int, int, int], **form: Any) -> InternImageSpec:
    per_group = 32 if label in "hg" else 16
    first, second, third, fourth = (channels * 2**level // per_group for level in range(4))
    return InternImageSpec(
        label=label, resolution=1333, channels=channels, depths=depths, groups=(first, second, third, fourth), **form
    )


_LARGEST: dict[str, Any] = {"layer_scale": None, "dw_kernel_size": 5, "center_feature_scale": True}
INTERNIMAGE = {
    "T": _internimage("t", 64, (4, 4, 18, 4)),
    "S": _internimage("s", 80, (4, 4, 21, 4), norms="post"),
    "B": _internimage("b", 112, (4, 4, 21, 4), norms="post"),
    "L": _internimage("l", 160, (5, 5, 22, 5), norms="post", offset_scale=2.0),
    "XL": _internimage("xl", 192, (5, 5, 24, 5), norms="post", offset_scale=2.0),
    "H": _internimage("h", 320, (6, 6, 32, 6), norms="res_post", post_norm_blocks=(5, 11, 17, 23, 29), **_LARGEST),
    "G": _internimage("g", 512, (2, 2, 48, 4), norms="post", post_norm_blocks=tuple(range(5, 48, 6)), **_LARGEST),
}
"""InternImage as its detectors have it (layer scales included); drop path follows the recipe."""

INTERNIMAGE_CASCADE = CascadeMaskRCNNSpec(box_convs=4, class_agnostic=False, box_loss="giou")
"""The head of its L and XL."""


def _mpvit(
    label: str, channels: tuple[int, int, int, int], depths: tuple[int, int, int, int], **form: Any
) -> MPViTSpec:
    return MPViTSpec(label=label, resolution=1333, channels=channels, depths=depths, **form)


MPVIT = {
    "T": _mpvit("t", (64, 96, 176, 216), (1, 2, 4, 1), mlp_ratio=2, drop_path=0.1),
    "T4": _mpvit("t4", (64, 96, 176, 216), (1, 2, 4, 1), mlp_ratio=4, drop_path=0.1),
    "XS": _mpvit("xs", (64, 128, 192, 256), (1, 2, 4, 1), mlp_ratio=4, drop_path=0.1),
    "S": _mpvit("s", (64, 128, 216, 288), (1, 3, 6, 3), mlp_ratio=4, drop_path=0.2),
    "B": _mpvit("b", (128, 224, 368, 480), (1, 3, 8, 3), mlp_ratio=4, drop_path=0.4),
}
"""With the drop path of its detectors. T4 is T with the MLP ratio of the others: its detectors' printed cost is of that, its code and
its pretraining have 2."""
