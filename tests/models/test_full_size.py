"""Every published row has the official network's parameters and optimizer groups, on the meta device; two of them run."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from functools import cache

import pytest
import torch
from official import GOLDEN, fill, full_size, official_name
from torch import nn

from piip.catalogue.rows import all_rows
from piip.counting.meta import on_meta
from piip.models import build_backbone, build_model
from piip.models.backbones.piip import PIIP
from piip.spec import ModelSpec, PIIPSpec
from piip.training.optim import build_optimizer
from piip.weights.names.dino import split
from piip.weights.names.mmdet import fit_weights
from piip.weights.names.mmdet import official_name as released_name
from piip.weights.names.piip import left_out, official_shape
from piip.weights.read import Weights

ROWS = {row.paper.config: row for row in all_rows().values() if row.paper and row.paper.config}
SHAPES, GROUPS = full_size()["shapes"], full_size()["groups"]


@cache
def _built(spec: ModelSpec) -> nn.Module:
    with on_meta():
        return build_model(spec, pretrained=False)


def built(config: str) -> tuple[nn.Module, PIIPSpec]:
    """The row's backbone (a classifier: with its heads)."""
    network, model = whole(config), ROWS[config].model
    assert isinstance(model.backbone, PIIPSpec)
    return network if model.head.kind == "classifier" else network.backbone, model.backbone  # type: ignore[return-value]


def whole(config: str) -> nn.Module:
    """The row's network, built once for rows that differ in resolutions only."""
    model = ROWS[config].model
    assert isinstance(model.backbone, PIIPSpec)
    changes = {
        f"backbone.branches.{i}.resolution": 224
        for i, branch in enumerate(model.backbone.branches)
        if branch.positions == "pretraining"
    }
    return _built(model.override(changes | {"backbone.label": ""}))


def dino_shapes(channels: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
    """The official neck and head on maps of so many channels."""
    for name, shape in json.loads((GOLDEN / "dino_shapes.json").read_text()).items():
        level = re.match(r"neck\.(extra_)?convs\.(\d)\.conv", name)
        given = channels[-1 if level[1] else int(level[2])] if level else None
        yield name, [shape[0], given, *shape[2:]] if given else shape


def test_every_official_configuration_has_its_row():
    assert set(SHAPES) <= set(ROWS)
    assert set(GROUPS) <= set(SHAPES)


@pytest.mark.parametrize("config", SHAPES)
def test_nothing_is_missing_and_nothing_unexplained(config):
    network, spec = built(config)

    names = {official_name(name, spec): parameter.shape for name, parameter in network.named_parameters()}

    ours = {name: official_shape(name, shape) for name, shape in names.items()}
    assert len(ours) == len(list(network.parameters()))
    assert ours == {name: shape for name, shape in SHAPES[config].items() if not left_out(name, spec)}


@pytest.mark.parametrize("config", SHAPES)
def test_a_file_of_those_tensors_loads_whole(config):
    """The backbone's tensors as the official manifest has them, neck and heads as mmdet and mmsegmentation do."""
    network, spec = whole(config), ROWS[config].model
    prefix = "" if spec.head.kind == "classifier" else "backbone."
    file = {prefix + name: torch.empty(shape, device="meta") for name, shape in SHAPES[config].items()}
    for name, value in network.state_dict().items():
        if spec.head.kind in ("mask_rcnn", "upernet") and not name.startswith("backbone."):
            theirs = released_name(name, spec)
            # the background has no boxes and no mask in mmdet; mmsegmentation has none at all
            background = 4 if "fc_reg" in theirs else 1 if "conv_logits" in theirs else 0
            file[theirs] = value[background:] if background else value
    if spec.head.kind == "dino":
        file |= {name: torch.empty(shape, device="meta") for name, shape in dino_shapes(network.backbone.out_channels)}

    fitted, report = fit_weights(Weights(file, config), network, spec)

    report.require(())
    assert {name: value.shape for name, value in fitted.items()} == {
        name: value.shape for name, value in network.state_dict().items()
    }
    assert len(report.matched) + len(report.ignored) == len(split(file))


@pytest.mark.parametrize("config", GROUPS)
def test_optimizer_groups_are_the_official_ones(config):
    backbone, _ = built(config)
    assert isinstance(backbone, PIIP)
    model = nn.ModuleDict({"backbone": backbone, "neck": nn.Linear(1, 1, device="meta")})
    distances = {f"backbone.{name}": distance for name, distance in backbone.layer_ids().items()}

    optimizer = build_optimizer(model, ROWS[config].optim, distances)

    ours = [
        (group["lr_scale"], group["weight_decay"], len(group["params"]), sum(p.numel() for p in group["params"]))
        for group in optimizer.param_groups
    ]
    expected = [(group["lr_scale"], group["wd"], group["n_tensors"], group["n_elem"]) for group in GROUPS[config]]
    for group, (scale, *others) in zip(sorted(ours), sorted(expected), strict=True):
        assert group[0] == pytest.approx(scale, rel=1e-7)
        assert list(group[1:]) == others


@pytest.mark.long
@pytest.mark.parametrize("name", ["mask_rcnn_piip_tsb_1120_896_448_1x", "mask_rcnn_piip_sbl_1120_672_448_1x"])
def test_full_size_in_bf16_is_full_size_in_fp32(name):
    """Forward and backward pass at 448 x 672 on the CPU. Every product is rounded to 8 bits, 0.2 %: maps may be 2 % apart.

    Mean squares average that out in the loss (1e-3); gradients pass through the network twice (5 %).
    """
    spec = all_rows()[name].model.backbone
    assert isinstance(spec, PIIPSpec)
    with on_meta():
        network = build_backbone(spec, pretrained=False)
    fill(network.to_empty(device="cpu"), lambda parameter: official_name(parameter, spec))
    image = torch.randn(1, 3, 448, 672, generator=torch.Generator().manual_seed(0))

    maps, losses, gradients = zip(*(_passes(network, image, bf16) for bf16 in (False, True)), strict=True)

    assert [map_.shape[-2:] for map_ in maps[0]] == [(112, 168), (56, 84), (28, 42), (14, 21)]
    assert max(map(_apart, *maps)) < 0.02
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert None not in gradients[0]
    difference = torch.stack([(a - b).norm() for a, b in zip(*gradients, strict=True)]).norm()
    whole = torch.stack([gradient.norm() for gradient in gradients[0]]).norm()
    print(f"maps {max(map(_apart, *maps)):.1e}, gradients {difference / whole:.1e} apart")
    assert difference < 0.05 * whole


def _passes(network: nn.Module, image: torch.Tensor, bf16: bool) -> tuple[list, float, list]:
    """The maps, the sum of their mean squares, and its gradients; prints the seconds."""
    began = time.perf_counter(), time.process_time()
    network.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        maps = network(image)
    loss = sum(map_.float().square().mean() for map_ in maps)
    loss.backward()
    wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    print(f"{'bf16' if bf16 else 'fp32'}: {wall:.1f} s, {cpu:.1f} s of CPU, loss {loss.item():.5f}")
    return [map_.detach().float() for map_ in maps], loss.item(), [p.grad for p in network.parameters()]


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / a.norm()).item()
