import pytest
import timm
import torch
from timm.layers import DropPath

from piip.models.branches import build as branches
from piip.models.branches import pico
from piip.models.branches.attention import windowed
from piip.models.branches.build import build_branch
from piip.models.branches.vit import Branch
from piip.spec import BranchSpec

DEIT_TINY = BranchSpec(arch="deit_tiny_patch16_224.fb_in1k", resolution=224, pretrained=False, window=None)


def test_a_global_branch_at_native_size_is_timms_network():
    vit = timm.create_model(
        "deit_tiny_patch16_224", class_token=False, global_pool="avg", num_classes=0, depth=3
    ).eval()
    vit.norm = torch.nn.Identity()
    image = torch.rand(2, 3, 224, 224)

    with torch.no_grad():
        expected = vit.forward_features(image)
        tokens = Branch(vit).eval()(image)

    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=0)


def test_blocks_can_be_run_in_shares():
    branch = build_branch(BranchSpec(arch="pico_tiny.glyphs", resolution=64, pretrained=False, window=3)).eval()
    image = torch.rand(1, 3, 64, 40)

    tokens, grid = branch.embed(image), branch.grid(image)
    for start, stop in ((0, 1), (1, 1), (1, 4), (4, branch.depth)):
        tokens, grid = branch.run(tokens, grid, start, stop)

    torch.testing.assert_close(tokens, branch(image))


def test_the_class_token_has_no_place_and_no_position():
    branch = build_branch(DEIT_TINY)

    assert branch.pos_embed.shape == (1, 14 * 14, 192)
    assert branch(torch.rand(1, 3, 64, 48)).shape == (1, 4 * 3, 192)
    assert (branch.embed_dim, branch.depth, branch.patch_size, branch.num_heads) == (192, 12, 16, 3)


def test_pixels_that_fill_no_patch_are_dropped():
    branch = build_branch(DEIT_TINY).eval()
    image = torch.rand(1, 3, 79, 63)

    with torch.no_grad():
        torch.testing.assert_close(branch(image), branch(image[..., :64, :48]))


def test_a_window_as_large_as_the_map_is_global_attention():
    block = build_branch(DEIT_TINY).blocks[0].eval()
    tokens = torch.randn(2, 25, 192)

    with torch.no_grad():
        torch.testing.assert_close(windowed(block.attn, tokens, (5, 5), 5), block.attn(tokens))


def test_windows_do_not_see_each_other():
    attention = build_branch(DEIT_TINY).blocks[0].attn.eval()
    tokens = torch.randn(1, 8 * 12, 192)
    changed = tokens.clone()
    changed[:, 0] += 1  # in the upper left window of 4 x 4

    with torch.no_grad():
        difference = (windowed(attention, changed, (8, 12), 4) - windowed(attention, tokens, (8, 12), 4)).abs().sum(-1)

    touched = difference.view(8, 12) > 0
    assert touched[:4, :4].all()
    assert touched.sum() == 16


def test_stochastic_depth_is_constant_over_the_blocks():
    branch = build_branch(DEIT_TINY.override({"drop_path": 0.2}))

    assert [block.drop_path2.drop_prob for block in branch.blocks] == [0.2] * 12
    assert isinstance(branch.blocks[0].drop_path1, DropPath)


@pytest.mark.parametrize("arch", pico.GEOMETRY)
def test_pico_networks_are_timm_networks(arch):
    width, depth, heads = pico.GEOMETRY[arch]

    branch = build_branch(BranchSpec(arch=f"{arch}.glyphs", resolution=128, pretrained=False))

    assert arch in timm.list_models("pico_*")
    assert (branch.embed_dim, branch.depth, branch.patch_size, branch.num_heads) == (width, depth, 8, heads)
    assert branch(torch.rand(1, 3, 64, 96)).shape == (1, 8 * 12, width)


def test_pico_weights_go_in_a_file_and_come_back(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    trained = timm.create_model("pico_tiny", num_classes=0)
    save_file(trained.state_dict(), tmp_path / "pico_tiny.glyphs.safetensors")
    monkeypatch.setattr(pico, "WEIGHTS", tmp_path)

    branch = build_branch(BranchSpec(arch="pico_tiny.glyphs", resolution=128))

    for name, parameter in branch.named_parameters():
        torch.testing.assert_close(parameter, trained.get_parameter(name), msg=name)


def test_missing_pico_weights_name_the_script(tmp_path, monkeypatch):
    monkeypatch.setattr(pico, "WEIGHTS", tmp_path)

    with pytest.raises(ValueError, match=r"experiments/pretrain_pico\.py.*pretrained=false"):
        build_branch(BranchSpec(arch="pico_tiny.glyphs", resolution=128))


def test_no_network_names_the_way_out(monkeypatch):
    def unreachable(*args, **kwargs):
        raise FileNotFoundError("Please check your connection")

    monkeypatch.setattr(branches.timm, "create_model", unreachable)

    with pytest.raises(ValueError, match=r"(?s)deit_tiny_patch16_224\.fb_in1k.*branches\.N\.pretrained=false"):
        build_branch(DEIT_TINY.override({"pretrained": True}))


def test_a_wrong_name_gets_the_nearest():
    with pytest.raises(ValueError, match="deit_tiny_patch16_224"):
        build_branch(DEIT_TINY.override({"arch": "deit_tinny_patch16_224"}))


def test_a_network_without_positions_is_refused():
    with pytest.raises(ValueError, match="no plain ViT"):
        build_branch(DEIT_TINY.override({"arch": "resnet18"}))
