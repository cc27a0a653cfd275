"""Branches of every family against timm's own forward pass of the same weights, globally at native size."""

import copy

import pytest
import timm
import torch
from official import fill
from timm.layers import DropPath
from timm.models.beit import Beit

from piip.models.branches import build as branches
from piip.models.branches.build import build_branch
from piip.models.branches.convnext import ConvNeXtBranch
from piip.models.branches.vit import Branch
from piip.spec import BranchSpec
from piip.weights.resizing import resized_positions

WITHOUT_CLASS = {"class_token": False, "global_pool": "avg"}
SHALLOW = [
    ("deit_tiny_patch16_224", WITHOUT_CLASS | {"depth": 3}),
    ("deit3_small_patch16_224", WITHOUT_CLASS | {"depth": 3}),
    ("vit_tiny_patch16_224", WITHOUT_CLASS | {"depth": 3}),
    ("vit_small_patch16_384", WITHOUT_CLASS | {"depth": 1}),
    ("vit_small_patch14_dinov2", WITHOUT_CLASS | {"depth": 1}),
    ("beitv2_base_patch16_224", {"depth": 1}),
    ("convnext_tiny", {"depths": (1, 2, 2, 1)}),
]
WHOLE = [
    *((f"vit_{size}_patch16_224", WITHOUT_CLASS) for size in ("tiny", "small", "base", "large")),
    *((f"deit3_{size}_patch16_224", WITHOUT_CLASS) for size in ("small", "base", "large")),
    *((f"vit_{size}_patch14_dinov2", WITHOUT_CLASS) for size in ("small", "base")),
    *((f"beitv2_{size}_patch16_224", {}) for size in ("base", "large")),
    *((f"convnext_{size}", {}) for size in ("tiny", "small", "base")),
]


@pytest.mark.parametrize(
    ("arch", "shape"), [*SHALLOW, *(pytest.param(*case, marks=pytest.mark.long) for case in WHOLE)]
)
def test_a_branch_is_timms_network(arch, shape):
    net = fill(timm.create_model(arch, num_classes=0, **shape))
    if isinstance(net, Beit):
        # timm's BEiT always has a class token: no patch looks at it when its bias takes it out of the softmax
        for block in net.blocks:
            block.attn.relative_position_bias_table.data[-2] = -1e4
    side = net.default_cfg["input_size"][-1]
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    ours = copy.deepcopy(net)
    branch = (
        ConvNeXtBranch(ours)
        if arch.startswith("convnext")
        else Branch(ours, window=14 if isinstance(net, Beit) else None)
    )

    with torch.no_grad():
        expected = net.forward_features(image)
        tokens = branch.eval()(image)

    if expected.ndim == 4:
        expected = expected.flatten(2).transpose(1, 2)
    expected = expected[:, -tokens.shape[1] :]
    difference = (tokens - expected).abs().max().item()
    print(f"{arch}: max difference {difference:.1e} of {expected.abs().max().item():.1f}")
    assert difference < 2e-5 * expected.abs().max().item()


@pytest.mark.parametrize(
    ("arch", "counts", "shares"),
    [
        ("convnext_tiny", 12, [3, 4, 2, 1, 1, 1, 1, 1, 1, 1, 1, 4]),
        ("convnext_small", 12, [3, 4, 4, 3, 3, 3, 3, 3, 3, 3, 3, 4]),
        ("convnext_tiny", 4, [3, 4, 10, 4]),
    ],
)
def test_a_convnext_shares_out_its_third_stage(arch, counts, shares):
    with torch.device("meta"):
        branch = build_branch(BranchSpec(arch=arch, resolution=224, pretrained=False))

    ranges = branch.shares(counts)

    assert [stop - start for start, stop in ranges] == shares
    assert [block for start, stop in ranges for block in range(start, stop)] == list(range(branch.depth))


def test_a_convnext_in_shares_is_the_convnext_as_a_whole():
    branch = ConvNeXtBranch(fill(timm.create_model("convnext_atto", num_classes=0))).eval()
    image = torch.rand(1, 3, 96, 70)

    with torch.no_grad():
        tokens, grid = branch.embed(image), branch.grid(image)
        for start, stop in branch.shares(5):
            tokens, grid = branch.run(tokens, grid, start, stop)

        torch.testing.assert_close(tokens, branch(image))
    assert grid == (96 // 32, 70 // 32)


def test_too_few_interactions_for_a_convnext_are_refused():
    branch = ConvNeXtBranch(timm.create_model("convnext_atto", num_classes=0))

    with pytest.raises(ValueError, match=r"count 3: .* takes 4 to 9"):
        branch.shares(3)


def small_spec(**changes) -> BranchSpec:
    plain = {"arch": "deit_tiny_patch16_224", "resolution": 96, "pretrained": False, "window": None}
    return BranchSpec(**plain | changes)


def test_stochastic_depth_grows_linearly_where_the_rule_says_so():
    branch = build_branch(small_spec(drop_path=0.22, drop_path_rule="linear"))

    rates = [block.drop_path1.drop_prob if isinstance(block.drop_path1, DropPath) else 0.0 for block in branch.blocks]

    assert rates == pytest.approx([0.02 * index for index in range(12)])


def test_a_pattern_of_windows_repeats_over_the_blocks():
    branch = build_branch(small_spec(window=(14, 14, None)))

    assert branch.windows == [14, 14, None] * 4


def test_a_pattern_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="5 windows do not repeat evenly over 12 blocks"):
        build_branch(small_spec(window=(14, 14, None, 14, 14)))


def test_other_patches_cover_the_same_pretraining_image():
    native = build_branch(BranchSpec(arch="vit_small_patch14_dinov2", resolution=96, pretrained=False, window=None))
    branch = build_branch(
        BranchSpec(arch="vit_small_patch14_dinov2", resolution=96, pretrained=False, window=None, patch_size=16)
    )

    assert native.pos_embed.shape == (1, 1 + 37 * 37, 384)  # 518 / 14
    assert branch.pos_embed.shape == (1, 1 + 32 * 32, 384)  # 518 / 16, rounded down
    assert branch.patch_embed.proj.weight.shape == (384, 3, 16, 16)
    assert branch(torch.rand(1, 3, 64, 48)).shape == (1, 4 * 3, 384)


def test_positions_can_be_stored_at_the_branchs_resolution():
    torch.manual_seed(0)
    native = build_branch(small_spec())
    torch.manual_seed(0)
    branch = build_branch(small_spec(positions="resolution"))

    assert branch.pos_embed.shape == (1, 6 * 6, 192)  # 96 / 16
    torch.testing.assert_close(branch.pos_embed.data, resized_positions(native.pos_embed.data, (6, 6)))


def test_the_class_row_of_official_internvit_positions_is_kept_and_never_read():
    branch = build_branch(BranchSpec(arch="vit_tiny_patch16_224.augreg_in21k", resolution=96, pretrained=False)).eval()
    image = torch.rand(1, 3, 96, 64)

    with torch.no_grad():
        before = branch(image)
        branch.pos_embed[:, 0] += 1

        torch.testing.assert_close(branch(image), before, atol=0, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 0.1, None])
def test_layer_scale_starts_where_the_spec_says(scale):
    block = build_branch(small_spec(layer_scale=scale)).blocks[0]

    assert isinstance(block.ls1, torch.nn.Identity) if scale is None else (block.ls2.gamma == scale).all()


def test_the_fused_mlp_approximates_gelu_by_tanh():
    assert build_branch(small_spec(activation="gelu_tanh")).blocks[3].mlp.act.approximate == "tanh"
    assert build_branch(small_spec()).blocks[3].mlp.act.approximate == "none"


@pytest.mark.parametrize("arch", ["deit_tiny_patch16_224", "convnext_atto"])
def test_checkpointing_changes_memory_and_no_gradient(arch):
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        branch = build_branch(small_spec(arch=arch, checkpointing=checkpointing, drop_path=0.3)).train()
        image = torch.rand(2, 3, 64, 64, requires_grad=True)
        kept = 0

        def count(tensor):
            nonlocal kept
            kept += tensor.numel()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = (branch(image) ** 2).mean()
        loss.backward()
        results.append(([p.grad for p in branch.parameters() if p.grad is not None], kept))
    (plain, much), (again, little) = results

    assert little < much / 3
    for expected, gradient in zip(plain, again, strict=True):
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"class_token": True, "window": 4}, "a class token sees all patches: window must be None"),
        ({"arch": "beitv2_base_patch16_224", "window": (14, None)}, "relative within a window: every block needs one"),
        ({"arch": "beitv2_base_patch16_224", "window_padding": "after_qkv", "window": 14}, "official DeiT class"),
        ({"arch": "internvit_6b_patch14_224", "pretrained": True}, r"branches\.N\.weights"),
        ({"arch": "uniperceiver_base_patch16_224", "pretrained": True}, r"branches\.N\.weights"),
    ],
)
def test_what_a_network_cannot_have_is_refused(changes, said):
    with pytest.raises(ValueError, match=said), torch.device("meta"):
        build_branch(small_spec().override(changes))


def test_uni_perceiver_norms_its_embedding_and_knows_one_frame():
    with torch.device("meta"):
        branch = build_branch(small_spec(arch="uniperceiver_base_patch16_224", window=28))

    assert branch.frame_embed.shape == (8, 768)
    assert branch.norm_pre.eps == branch.blocks[0].norm1.eps == 1e-5
    assert branches.uniperceiver.GEOMETRY["uniperceiver_large_patch16_224"] == (1024, 24, 16)
