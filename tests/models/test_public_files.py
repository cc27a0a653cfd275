"""Every family's file as its authors publish it, in their names, gives the branch that timm's own loading of it gives."""

import copy
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from official import fill
from timm.layers import LayerScale
from timm.models import beit, convnext, vision_transformer
from timm.models.beit import Beit
from timm.models.convnext import ConvNeXt
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from piip.counting.meta import on_meta
from piip.models.branches.build import build_branch
from piip.models.branches.convnext import ConvNeXtBranch
from piip.models.branches.internvit import INTERNVIT
from piip.models.branches.pretraining import load_pretraining
from piip.models.branches.uniperceiver import UniPerceiver
from piip.models.branches.vit import Branch
from piip.spec import BranchSpec
from piip.weights.fit import Report
from piip.weights.names.piip import public_names
from piip.weights.read import WeightsError

SHAPE = {"img_size": 64, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
File = dict[str, Tensor]


def vit(**changes) -> VisionTransformer:
    return VisionTransformer(**SHAPE | changes)


def renamed(net: nn.Module, *pairs: tuple[str, str]) -> File:
    """The weights of a timm network under other names: timm's as a regular expression, theirs."""
    file = {}
    for name, value in net.state_dict().items():
        for ours, theirs in pairs:
            name = re.sub(ours, theirs, name)
        file[name] = value
    return file


def beit_file(net: nn.Module) -> File:
    """Fine-tuned BEiT v2: a table and an index in every block, keys without a bias, the norm before the head."""
    file = {name: value for name, value in net.state_dict().items() if not name.endswith("k_bias")}
    return file | {f"blocks.{block}.attn.relative_position_index": torch.zeros(17, 17) for block in range(2)}


def plain(net: nn.Module) -> Branch:
    return Branch(net, layer_scale=1.0)  # type: ignore[arg-type]


SCALED = {"init_values": 1.0}
GAMMAS = (r"ls(\d)\.gamma", r"gamma_\1")
# family: timm's network, its weights as published, timm's own reading of that, our branch of it, what the file is wrapped in
FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], File], Callable | None, Callable, str | None]] = {
    "deit_tiny_patch16_224": (vit, renamed, vision_transformer.checkpoint_filter_fn, plain, "model"),
    "deit3_small_patch16_224": (
        lambda: vit(**SCALED),
        lambda net: renamed(net, GAMMAS),
        lambda file, net: vision_transformer.checkpoint_filter_fn(file, net, adapt_layer_scale=True),
        plain,
        "model",
    ),
    "vit_base_patch16_224.mae": (vit, renamed, vision_transformer.checkpoint_filter_fn, plain, "model"),
    "vit_small_patch14_dinov2": (
        lambda: vit(**SCALED),
        lambda net: renamed(net) | {"mask_token": torch.zeros(1, 24)},
        vision_transformer.checkpoint_filter_fn,
        plain,
        None,
    ),
    "beitv2_base_patch16_224": (
        lambda: Beit(**SHAPE, use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=1.0),
        beit_file,
        beit.checkpoint_filter_fn,
        lambda net: Branch(net, window=4),
        "model",
    ),
    "internvit_6b_patch14_224": (lambda: vit(**INTERNVIT), renamed, None, plain, None),
    "uniperceiver_base_patch16_224": (
        lambda: UniPerceiver(**SHAPE),
        lambda net: renamed(
            net, GAMMAS, ("blocks", "layers"), (r"attn\.qkv", "self_attn.in_proj"), (r"attn\.proj", "self_attn.out_proj"),
            (r"mlp\.fc", "linear"), ("pos_embed", "visual_embed.patch_embed.spatial_pos_embed.weight"),
            ("frame_embed", "visual_embed.patch_embed.temporal_pos_embed.weight"), ("norm_pre", "visual_embed.embeddings_norm"),
            (r"^patch_embed\.proj", "visual_embed.patch_embed.proj"),
        ),
        None, plain, None,
    ),
    "convnext_tiny.fb_in1k": (
        lambda: ConvNeXt(num_classes=5, depths=(1, 1, 2, 1), dims=(8, 16, 24, 32)),
        lambda net: renamed(
            net, ("stem", "downsample_layers.0"), (r"stages\.(\d)\.blocks", r"stages.\1"),
            (r"stages\.(\d)\.downsample", r"downsample_layers.\1"), ("conv_dw", "dwconv"), (r"mlp\.fc", "pwconv"),
            (r"head\.norm", "norm"), (r"head\.fc", "head"),
        ),
        convnext.checkpoint_filter_fn, ConvNeXtBranch, "model",
    ),
}  # fmt: skip


def loaded(tmp_path, branch: nn.Module, arch: str, file: File, wrapper: str | None) -> Report:
    torch.save({wrapper: file} if wrapper else file, tmp_path / "public.pth")
    return load_pretraining(branch, BranchSpec(arch=arch, resolution=64, weights=str(tmp_path / "public.pth")))


def compare(ours: nn.Module, expected: nn.Module) -> None:
    image = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(image), expected.eval()(image), atol=0, rtol=0)


@pytest.mark.parametrize("arch", FAMILIES)
def test_a_public_file_gives_the_branch_that_timm_makes_of_it(arch, tmp_path):
    build, publish, timms_reading, branch_of, wrapper = FAMILIES[arch]
    source = fill(build())
    file = publish(source)
    by_timm = source
    if timms_reading:
        by_timm = build()
        found = timms_reading(dict(file), by_timm)
        missing, unexpected = by_timm.load_state_dict(found, strict=False)
        assert not [name for name in missing if not name.endswith("k_bias")]
        assert not unexpected
    ours = branch_of(build())

    report = loaded(tmp_path, ours, arch, file, wrapper)

    assert not report.missing
    assert not report.unexplained
    assert not report.resized
    compare(ours, branch_of(by_timm))


def test_the_hubs_names_of_convnext(tmp_path):
    build, *_ = FAMILIES["convnext_tiny.fb_in1k"]
    source = fill(build())
    file = renamed(
        source, (r"stem\.0", "convnext.embeddings.patch_embeddings"), (r"stem\.1", "convnext.embeddings.layernorm"),
        (r"stages\.(\d)", r"convnext.encoder.stages.\1"), ("downsample", "downsampling_layer"), ("blocks", "layers"),
        ("conv_dw", "dwconv"), (r"(\.\d+)\.norm", r"\1.layernorm"), (r"mlp\.fc", "pwconv"), ("gamma", "layer_scale_parameter"),
        (r"head\.norm", "convnext.layernorm"), (r"head\.fc", "classifier"),
    )  # fmt: skip
    ours = ConvNeXtBranch(build())

    report = loaded(tmp_path, ours, "convnext_tiny.fb_in1k", file, None)

    assert set(report.ignored) == {
        f"{n}.{leaf}" for n in ("convnext.layernorm", "classifier") for leaf in ("weight", "bias")
    }
    compare(ours, ConvNeXtBranch(source))


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_facebooks_names_of_a_whole_convnext_are_those_timm_knows(size):
    spec = BranchSpec(arch=f"convnext_{size}.fb_in1k", resolution=224)
    with on_meta():
        branch = build_branch(spec, pretrained=False)
    file = {public_names(name, spec)[2]: value for name, value in branch.state_dict().items()}

    assert "downsample_layers.0.0.weight" in file
    assert "stages.2.8.pwconv2.bias" in file
    assert set(convnext.checkpoint_filter_fn(file, branch)) == set(branch.state_dict())


def flax_file(net: VisionTransformer) -> dict[str, np.ndarray]:
    """The weights of timm's ViT as AugReg's authors lay them out: heads apart, matrices and kernels the other way round."""
    state = {name: value.numpy() for name, value in net.state_dict().items()}
    heads, width = SHAPE["num_heads"], SHAPE["embed_dim"]
    apart = (heads, width // heads)
    arrays = {
        "cls": state["cls_token"], "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0), "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": state["norm.weight"], "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T, "head/bias": state["head.bias"],
    }  # fmt: skip
    for i in range(SHAPE["depth"]):
        ours, theirs = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        attention = f"{theirs}MultiHeadDotProductAttention_1/"
        for part, weight, bias in zip(
            ("query", "key", "value"),
            np.split(state[f"{ours}attn.qkv.weight"], 3),
            np.split(state[f"{ours}attn.qkv.bias"], 3),
            strict=True,
        ):
            arrays[f"{attention}{part}/kernel"] = weight.T.reshape(width, *apart)
            arrays[f"{attention}{part}/bias"] = bias.reshape(apart)
        arrays[f"{attention}out/kernel"] = state[f"{ours}attn.proj.weight"].T.reshape(*apart, width)
        arrays[f"{attention}out/bias"] = state[f"{ours}attn.proj.bias"]
        for k, place in ((1, 0), (2, 2)):
            arrays[f"{theirs}LayerNorm_{place}/scale"] = state[f"{ours}norm{k}.weight"]
            arrays[f"{theirs}LayerNorm_{place}/bias"] = state[f"{ours}norm{k}.bias"]
            arrays[f"{theirs}MlpBlock_3/Dense_{k - 1}/kernel"] = state[f"{ours}mlp.fc{k}.weight"].T
            arrays[f"{theirs}MlpBlock_3/Dense_{k - 1}/bias"] = state[f"{ours}mlp.fc{k}.bias"]
    return arrays


class TestAugReg:
    """`S_16-i21k-...-res_384.npz` and its sisters."""

    ARCH = "vit_small_patch16_384.augreg_in21k_ft_in1k"

    @pytest.fixture
    def arrays(self) -> dict[str, np.ndarray]:
        return flax_file(fill(vit()))  # type: ignore[arg-type]

    @pytest.fixture
    def load(self, tmp_path):
        def load(branch: Branch, arrays: dict[str, np.ndarray]) -> Report:
            np.savez(tmp_path / "S_16.npz", **arrays)
            spec = BranchSpec(arch=self.ARCH, resolution=64, weights=str(tmp_path / "S_16.npz"))
            return load_pretraining(branch, spec)

        return load

    @pytest.mark.parametrize("class_position", [True, False])
    def test_the_branch_is_that_of_timms_loader(self, arrays, load, tmp_path, class_position):
        ours = Branch(vit(), class_position=class_position)

        report = load(ours, arrays)

        by_timm = vit()
        by_timm.load_pretrained(str(tmp_path / "S_16.npz"))
        compare(ours, Branch(copy.deepcopy(by_timm), class_position=class_position))
        assert isinstance(ours.blocks[0].ls1, LayerScale)
        assert set(report.anew.values()) == {"the pretraining has no layer scale"}
        assert {"cls_token", "head.weight", "norm.bias"} <= set(report.ignored)

    def test_a_classifier_takes_norm_and_head(self, arrays, load):
        ours = Branch(vit(), num_classes=5, layer_scale=None)

        load(ours, arrays)

        torch.testing.assert_close(ours.head.weight.data.numpy(), arrays["head/kernel"].T)
        torch.testing.assert_close(ours.norm.weight.data.numpy(), arrays["Transformer/encoder_norm/scale"])

    def test_a_deeper_file_is_refused(self, arrays, load):
        arrays["Transformer/encoderblock_2/LayerNorm_0/scale"] = np.zeros(24, np.float32)

        with pytest.raises(WeightsError, match=r"Unexplained: blocks\.2\.norm1\.weight"):
            load(Branch(vit()), arrays)

    def test_keys_without_queries_are_refused(self, arrays, load):
        del arrays["Transformer/encoderblock_1/MultiHeadDotProductAttention_1/query/kernel"]

        with pytest.raises(WeightsError, match=r"Missing: blocks\.1\.attn\.qkv\.weight"):
            load(Branch(vit()), arrays)
