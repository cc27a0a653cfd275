"""The fill behind tests/golden/piip_*, and networks of ours built from the official code's tiny configurations."""

import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from piip.contracts import Maps, Tokens, Wish
from piip.models.backbones.piip import PIIP
from piip.models.branches.internvit import INTERNVIT
from piip.models.branches.vit import Branch
from piip.models.heads.classifier import Classifier
from piip.models.network import Network
from piip.spec import BranchSpec, ClassifierSpec, InteractionSpec, PIIPSpec
from piip.weights.names.mmdet import in_backbone
from piip.weights.names.piip import official_shape, to_official

GOLDEN = Path(__file__).parent.parent / "golden"
ATOL = 5e-5  # 1 and 2 threads of the official code differ by 6e-6; a wrong LayerNorm eps by 2e-4

_AROUND_ONE = {"weight", "gamma", "gamma_1", "gamma_2", "ca_gamma", "cffn_gamma"}
_TABLES = {"pos_embed", "cls_token", "relative_position_bias_table"}
_ARCHS = {"deit": "deit_golden", "beit": "beit_golden", "augreg": "vit_golden"}


@cache
def cases() -> dict[str, dict]:
    return json.loads(lzma.decompress((GOLDEN / "piip_cases.json.xz").read_bytes()))


def outputs(case: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / "piip_cases.npz") as arrays:
        return {n.split(":")[1]: torch.from_numpy(arrays[n]) for n in arrays if n.split(":")[0] == case}


def units() -> dict[str, Tensor]:
    with np.load(GOLDEN / "piip_units.npz") as arrays:
        return {name.replace(":", "/"): torch.from_numpy(arrays[name]) for name in arrays}


@cache
def full_size() -> dict:
    """`shapes`: official configuration -> name -> shape; `groups`: configuration -> optimizer groups."""
    return json.loads(lzma.decompress((GOLDEN / "piip_full.json.xz").read_bytes()))


def value(key: str, shape: Sequence[int]) -> Tensor:
    z = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    leaf = key.split(".")[-1]
    if len(shape) == 0 or (len(shape) == 1 and leaf in _AROUND_ONE):
        z = 1 + 0.1 * z
    elif len(shape) == 1:
        z = z if key.endswith("sampling_offsets.bias") else 0.1 * z
    else:
        z = 0.2 * z if leaf in _TABLES else z / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(z, dtype=np.float32))


def inputs(name: str, shape: Iterable[int]) -> Tensor:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return torch.from_numpy(rng.standard_normal(tuple(shape)).astype(np.float32))


def fill(module: nn.Module, rename: Callable[[str], str] = lambda name: name) -> nn.Module:
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            official = rename(name)
            tensor.copy_(value(official, official_shape(official, tensor.shape)).reshape(tensor.shape))
    return module.eval()


def official_name(name: str, spec: PIIPSpec) -> str:
    return to_official(in_backbone(name), spec)


def tiny_spec(case: str) -> PIIPSpec:
    """What the official tiny configuration says, in our words."""
    config, branches = cases()[case]["config"], cases()[case]["branches"]
    regular, dino = not config.get("with_simple_fpn", True), config.get("is_dino", False)
    return PIIPSpec(
        branches=tuple(
            BranchSpec(arch=_ARCHS[_family(branch)], resolution=branch.get("real_size", branch.get("img_size")))
            for branch in reversed(branches)
        ),
        interaction=InteractionSpec(
            count=len(branches[0]["interaction_indexes"]), num_heads=config["deform_num_heads"],
            attention="deformable" if config["interact_attn_type"] == "deform" else "dense",
            projection=config.get("interaction_proj", True), norms=config.get("norm_layer") != "none",
        ),
        fpn="regular" if regular else "simple",
        merge_after=tuple(config["out_interaction_indexes"]) if regular else (),
        unused_level=dino,
    )  # fmt: skip


def tiny_wish(case: str) -> Wish:
    """What the official configuration's head reads."""
    if case.startswith("cls"):
        return Tokens()
    return Maps((8, 16, 32)) if cases()[case]["config"].get("is_dino", False) else Maps()


def tiny_model(case: str) -> PIIP | Network:
    """Ours, built as the official configuration and filled with the golden values."""
    spec, branches = tiny_spec(case), cases()[case]["branches"]
    if case.startswith("det4_asis"):
        branches = [*branches[:3], branches[2]]  # as released: the fourth branch is built with the third one's settings
    separate = cases()[case]["config"].get("separate_head", False)
    ours = [tiny_branch(branch, case, num_classes=1000 if separate else None) for branch in reversed(branches)]
    model: PIIP | Network = PIIP(ours, spec, tiny_wish(case))
    if case.startswith("cls"):
        token = "first_patch" if separate else "mean"
        model = Network(model, Classifier(ours, ClassifierSpec(merge=not separate, head_token=token)))
    fill(model, lambda name: official_name(name, spec))
    return model


def _family(branch: dict) -> str:
    words = (branch.get("pretrained", ""), branch.get("model_type", "deit" if "pretrained" not in branch else ""))
    return next((family for family in ("deit", "beit") if family in words), "augreg")


def tiny_branch(config: dict, case: str, *, num_classes: int | None = None) -> Branch:
    family = _family(config)
    shape = {
        "img_size": config["img_size"] if case.startswith(("seg", "cls")) else config["pretrain_img_size"],
        "patch_size": 16, "embed_dim": config["embed_dim"], "depth": config["depth"], "num_heads": config["num_heads"],
        "num_classes": num_classes or 0,
    }  # fmt: skip
    windows = [
        size if attends else None
        for attends, size in zip(config.get("window_attn", []), config.get("window_size", []), strict=True)
    ]
    if family == "beit":
        vit = Beit(**shape, use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=1.0)
    else:
        odd = INTERNVIT if config.get("qk_normalization") else {}
        vit = VisionTransformer(**{**shape, "class_token": False, "global_pool": "avg", **odd})
    scale = config.get("init_values") if family == "augreg" else 1.0
    branch = Branch(
        vit, window=windows or None, window_padding="after_qkv" if "naivepath" in case else "before_qkv", drop_path=0.1,
        linear=family != "deit", layer_scale=scale, class_token=config.get("use_cls_token", False),
        class_position=family == "augreg", num_classes=num_classes,
    )  # fmt: skip
    if "fused_mlp" in (config.get("mlp_type"), config.get("Mlp_block")):
        for block in branch.blocks:
            block.mlp.act = nn.GELU(approximate="tanh")
    return branch
