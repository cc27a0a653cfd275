"""Public pretraining files into branches: the names their authors use, resized as the official code does when it loads."""

import pytest
import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer

from piip.models.branches import build as branches
from piip.models.branches import pretraining
from piip.models.branches.build import build_branch
from piip.models.branches.pretraining import load_pretraining
from piip.models.branches.vit import Branch
from piip.spec import BranchSpec
from piip.weights.read import WeightsError
from piip.weights.resizing import resize_relative_positions

WIDTH, DEPTH = 24, 2


def tiny_vit(**changes) -> VisionTransformer:
    shape = {"img_size": 64, "patch_size": 16, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 2, "num_classes": 0}
    return VisionTransformer(**{**shape, "class_token": False, "global_pool": "avg", **changes})


def public_file(
    grid: int = 4, patch: int = 16, *, scale: tuple[str, str] | None = ("gamma_1", "gamma_2")
) -> dict[str, torch.Tensor]:
    """What a published ViT of WIDTH and DEPTH holds: class token, positions with its row, blocks, final norm, head."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "cls_token": (1, 1, WIDTH), "pos_embed": (1, 1 + grid**2, WIDTH), "patch_embed.proj.weight": (WIDTH, 3, patch, patch),
        "patch_embed.proj.bias": (WIDTH,), "norm.weight": (WIDTH,), "norm.bias": (WIDTH,),
        "head.weight": (1000, WIDTH), "head.bias": (1000,),
    }  # fmt: skip
    for block in range(DEPTH):
        inside = {
            "norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "norm2.weight": (WIDTH,), "norm2.bias": (WIDTH,),
            "attn.qkv.weight": (3 * WIDTH, WIDTH), "attn.qkv.bias": (3 * WIDTH,), "attn.proj.weight": (WIDTH, WIDTH),
            "attn.proj.bias": (WIDTH,), "mlp.fc1.weight": (4 * WIDTH, WIDTH), "mlp.fc1.bias": (4 * WIDTH,),
            "mlp.fc2.weight": (WIDTH, 4 * WIDTH), "mlp.fc2.bias": (WIDTH,), **dict.fromkeys(scale or (), (WIDTH,)),
        }  # fmt: skip
        shapes |= {f"blocks.{block}.{name}": shape for name, shape in inside.items()}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def spec_of(tmp_path, tensors, arch="deit3_small_patch16_224", wrapper="model", **changes) -> BranchSpec:
    torch.save({wrapper: tensors} if wrapper else tensors, tmp_path / "public.pth")
    return BranchSpec(arch=arch, resolution=64, weights=str(tmp_path / "public.pth"), **changes)


def test_deit_3(tmp_path):
    file = public_file()
    branch = Branch(tiny_vit())

    report = load_pretraining(branch, spec_of(tmp_path, file))

    assert set(report.ignored) == {"cls_token", "norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert len(report.matched) == len(list(branch.parameters()))
    torch.testing.assert_close(branch.pos_embed.data, file["pos_embed"][:, 1:])
    torch.testing.assert_close(branch.blocks[1].ls2.gamma.data, file["blocks.1.gamma_2"])
    torch.testing.assert_close(branch.blocks[0].attn.qkv.weight.data, file["blocks.0.attn.qkv.weight"])


def test_deit_1_has_no_layer_scale_and_ours_starts_at_one(tmp_path):
    branch = Branch(tiny_vit())

    report = load_pretraining(branch, spec_of(tmp_path, public_file(scale=None), arch="deit_tiny_patch16_224"))

    assert set(report.anew) == {f"blocks.{block}.ls{k}.gamma" for block in range(DEPTH) for k in (1, 2)}
    assert set(report.anew.values()) == {"the pretraining has no layer scale"}
    assert branch.blocks[0].ls1.gamma.tolist() == [1.0] * WIDTH


def test_a_layer_scale_that_is_there_in_part_is_not_excused(tmp_path):
    file = public_file()
    del file["blocks.1.gamma_1"]

    with pytest.raises(WeightsError, match=r"Missing: blocks\.1\.ls1\.gamma"):
        load_pretraining(Branch(tiny_vit()), spec_of(tmp_path, file))


def test_dinov2_kernel_and_positions_are_resized_plainly(tmp_path):
    # 74 px in 14 px patches are a grid of 5; in 16 px patches of 4
    file = public_file(grid=5, patch=14, scale=("ls1.gamma", "ls2.gamma")) | {"mask_token": torch.zeros(1, WIDTH)}
    branch = Branch(tiny_vit(), class_position=False)

    report = load_pretraining(branch, spec_of(tmp_path, file, arch="vit_small_patch14_dinov2", wrapper=None))

    assert set(report.resized) == {"pos_embed", "patch_embed.proj.weight"}
    kernel = F.interpolate(file["patch_embed.proj.weight"], size=(16, 16), mode="bicubic", align_corners=False)
    torch.testing.assert_close(branch.patch_embed.proj.weight.data, kernel)
    grid = file["pos_embed"][:, 1:].reshape(1, 5, 5, WIDTH).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(4, 4), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(branch.pos_embed.data, grid)
    torch.testing.assert_close(branch.blocks[0].ls1.gamma.data, file["blocks.0.ls1.gamma"])


def test_beit_tables_are_resized_to_the_window(tmp_path):
    vit = Beit(
        img_size=64, patch_size=16, embed_dim=WIDTH, depth=DEPTH, num_heads=2, num_classes=0, use_abs_pos_emb=False,
        use_rel_pos_bias=True, init_values=1.0,
    )  # fmt: skip
    branch = Branch(vit, window=6)
    file = {name: value for name, value in public_file().items() if "pos_embed" not in name and "qkv.bias" not in name}
    table = torch.randn(7 * 7 + 3, 2, generator=torch.Generator().manual_seed(1))
    for block in range(DEPTH):
        file |= {f"blocks.{block}.attn.{part}_bias": torch.randn(WIDTH) for part in "qv"}
        file[f"blocks.{block}.attn.relative_position_index"] = torch.zeros(17, 17, dtype=torch.int64)
    file["rel_pos_bias.relative_position_bias_table"] = table

    report = load_pretraining(branch, spec_of(tmp_path, file, arch="beitv2_base_patch16_224", window=6))

    resized = [name for name in report.resized if name.endswith("relative_position_bias_table")]
    assert len(resized) == DEPTH
    state = branch.state_dict()
    for name in resized:
        torch.testing.assert_close(state[name], resize_relative_positions(table[:49], 6))
    torch.testing.assert_close(state["blocks.1.attn.v_bias"], file["blocks.1.attn.v_bias"])


def test_a_file_of_a_deeper_network_is_refused(tmp_path):
    file = public_file()
    file["blocks.2.norm1.weight"] = torch.zeros(WIDTH)

    with pytest.raises(WeightsError, match=r"Unexplained: blocks\.2\.norm1\.weight"):
        load_pretraining(Branch(tiny_vit()), spec_of(tmp_path, file))


def test_a_file_of_a_wider_network_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="missing"):
        load_pretraining(Branch(tiny_vit(embed_dim=32)), spec_of(tmp_path, public_file()))


def test_a_classifiers_head_is_taken_where_it_has_as_many_classes(tmp_path):
    file = public_file()
    same, other = (Branch(tiny_vit(num_classes=n), num_classes=n) for n in (1000, 7))

    load_pretraining(same, spec_of(tmp_path, file))
    report = load_pretraining(other, spec_of(tmp_path, file))

    torch.testing.assert_close(same.head.weight.data, file["head.weight"])
    torch.testing.assert_close(same.norm.weight.data, file["norm.weight"])
    assert {"head.weight", "head.bias"} <= set(report.anew)


def test_a_branch_is_built_from_the_file_its_spec_names(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(branches, "load_pretraining", lambda branch, spec: seen.append(spec.weights))
    spec = spec_of(tmp_path, public_file(), arch="deit_tiny_patch16_224")

    build_branch(spec)
    build_branch(spec, pretrained=False)
    build_branch(spec.override({"pretrained": False}))

    assert seen == [spec.weights]


def test_a_branch_without_a_file_asks_the_hub_and_nothing_else_waits(monkeypatch):
    def unreachable(repository, filename, otherwise):
        raise WeightsError(f"{repository} is out of reach")

    monkeypatch.setattr(pretraining, "hub_file", unreachable)

    with pytest.raises(WeightsError, match=r"timm/deit3_small_patch16_224\.fb_in22k_ft_in1k is out of reach"):
        build_branch(BranchSpec(arch="deit3_small_patch16_224.fb_in22k_ft_in1k", resolution=224))


def test_networks_that_are_not_on_the_hub_do_not_ask_it(monkeypatch):
    monkeypatch.setattr(pretraining, "hub_file", lambda *_, **__: pytest.fail("asked"))

    assert pretraining.hub_overlay("pico_tiny.glyphs", otherwise="") is None
