"""Every network of timm that is accepted as a branch is computed as timm computes it, and in windows as padded windows."""

import pytest
import timm
import torch
from timm.models import beit
from torch import nn

from piip.models.branches import build
from piip.models.branches.build import build_branch
from piip.models.branches.convnext import ConvNeXtBranch
from piip.models.branches.vit import Branch
from piip.spec import BranchSpec

SAMPLE = [
    "aimv2_large_patch14_224", "beit3_base_patch16_224", "beit_base_patch16_224", "beitv2_large_patch16_224",
    "deit3_small_patch16_224", "deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224", "eva_large_patch14_196", "flexivit_small",
    "internvit_6b_patch14_224", "pico_tiny", "uniperceiver_base_patch16_224", "vit_base_patch16_clip_quickgelu_224",
    "vit_base_patch16_gap_224", "vit_base_patch16_siglip_256", "vit_intern300m_patch14_448", "vit_small_patch14_dinov2",
]  # fmt: skip
"""One of a kind: attentions, norms, MLPs, tokens in front."""
MODULES = (
    "vision_transformer",
    "vision_transformer_hybrid",
    "deit",
    "beit",
    "eva",
    "naflexvit",
    "pico",
    "uniperceiver",
    "internvit",
)
"""Of timm, and ours: all that might hold a plain ViT or a BEiT."""
EVERY = [arch for module in MODULES for arch in timm.list_models(module=module) if arch not in SAMPLE]
REFUSED = {
    "vit_base_r50_s16_224": "HybridEmbed",
    "vit_base_mci_224": "HybridEmbed",
    "vit_base_patch16_rpn_224": "ResPostBlock",
    "vit_base_patch16_xp_224": "ParallelScalingBlock",
    "vit_base_patch16_18x2_224": "ParallelThingsBlock",
    "vit_base_patch16_sapiens2": "class Eva",
    "vit_base_patch14_reg4_dinov2": "4 register tokens",
    "resnet18": "ResNet",
}
GRID, WINDOW = (7, 9), 4


@pytest.fixture(autouse=True)
def _shallow_networks(monkeypatch):
    """timm's networks two blocks deep and, where their form allows it, 64 channels wide."""
    create = timm.create_model

    def shallow(arch, **options):
        for small in ({"depth": 2, "embed_dim": 64, "num_heads": 4}, {"depth": 2}, {}):
            try:
                return create(arch, **options, **small)
            except (TypeError, AssertionError) as error:
                refused = error
        raise refused

    monkeypatch.setattr(build.timm, "create_model", shallow)


def branch_of(arch, window):
    """In float64, with no parameter at a value that hides it (zero biases, scales of one)."""
    spec = BranchSpec(arch=arch, resolution=224, pretrained=False, window=window, drop_path=0.0)
    branch = build_branch(spec).double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in branch.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += noise * (0.5 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    return branch


def tokens_of(branch):
    side = branch.patch_size
    image = torch.randn(1, 3, GRID[0] * side, GRID[1] * side, generator=torch.Generator().manual_seed(1))
    return branch.embed(image.double())


def accepted(arch):
    """Tried without values: what is refused may be large."""
    try:
        with torch.device("meta"):
            build_branch(BranchSpec(arch=arch, resolution=224, pretrained=False))
    except ValueError as error:
        if f"branch {arch!r} is no plain ViT" not in str(error):
            raise
        return False
    return True


def check(arch):
    branch = branch_of(arch, WINDOW)
    if isinstance(branch, ConvNeXtBranch):
        return
    with torch.no_grad():
        tokens = tokens_of(branch)
        exact, _ = branch.run(tokens, GRID, 0, branch.depth)
        branch.set_windows(exact=False)
        padded, _ = branch.run(tokens, GRID, 0, branch.depth)
        torch.testing.assert_close(exact, padded)
        assert not torch.allclose(exact, tokens)
        if not isinstance(branch.blocks[0], beit.Block):  # whose blocks, emptied of their layer scales, run here only
            own = nn.Sequential(*branch.blocks)(tokens)
            branch.windows = [None] * branch.depth
            torch.testing.assert_close(branch.run(tokens, GRID, 0, branch.depth)[0], own)


@pytest.mark.parametrize("arch", SAMPLE)
def test_exact_windows_of_a_timm_branch_are_padded_ones_and_global_blocks_timms_own(arch):
    check(arch)


@pytest.mark.long
@pytest.mark.parametrize("arch", EVERY)
def test_exact_windows_of_every_other_timm_branch_are_padded_ones_and_global_blocks_timms_own(arch):
    if accepted(arch):
        check(arch)


@pytest.mark.parametrize("arch", REFUSED)
def test_a_network_that_is_not_run_as_it_is_meant_is_refused_by_name(arch, monkeypatch):
    monkeypatch.undo()

    with torch.device("meta"), pytest.raises(ValueError, match=f"{arch}.*is no plain ViT.*{REFUSED[arch]}"):
        build_branch(BranchSpec(arch=arch, resolution=224, pretrained=False))


def test_zeros_after_qkv_are_for_attention_that_has_nothing_else():
    spec = BranchSpec(arch="beit3_base_patch16_224", resolution=224, pretrained=False, window_padding="after_qkv")

    with pytest.raises(ValueError, match="without norms"):
        build_branch(spec)


def test_attention_of_a_kind_that_exact_windows_do_not_know_is_padded():
    branch = branch_of("deit_tiny_patch16_224", WINDOW)
    assert isinstance(branch, Branch)

    class Louder(type(branch.blocks[0].attn)):
        def forward(self, x, *args, **kwargs):
            return 2 * super().forward(x, *args, **kwargs)

    tokens = tokens_of(branch)
    before, _ = branch.run(tokens, GRID, 0, 1)
    branch.blocks[0].attn.__class__ = Louder
    exact, _ = branch.run(tokens, GRID, 0, 1)
    branch.set_windows(exact=False)

    torch.testing.assert_close(exact, branch.run(tokens, GRID, 0, 1)[0])
    assert not torch.allclose(exact, before)
