"""Every published row has the official network's parameters and optimizer groups; on the meta device."""

from functools import cache

import pytest
import torch
from official import full_size, official_name
from torch import nn

from piip.models import build_model
from piip.models.meta import on_meta
from piip.models.naming import left_out, official_shape
from piip.models.official import HEADS, fit_weights
from piip.models.official import official_name as released_name
from piip.models.piip import PIIP
from piip.spec import ModelSpec, PIIPSpec
from piip.sweeps.found import all_rows
from piip.training.optim import build_optimizer
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
    """The backbone's tensors as the official manifest has them, a detector's neck and heads as mmdet does."""
    network, spec = whole(config), ROWS[config].model
    prefix = "" if spec.head.kind == "classifier" else "backbone."
    file = {prefix + name: torch.empty(shape, device="meta") for name, shape in SHAPES[config].items()}
    for name, value in network.state_dict().items():
        if spec.head.kind == "mask_rcnn" and not name.startswith("backbone."):
            theirs = released_name(name, spec)
            # the background has no boxes and no mask in mmdet
            file[theirs] = value[4 if "fc_reg" in theirs else 1 if "conv_logits" in theirs else 0 :]
    file |= {f"{start}x.weight": torch.empty(1, device="meta") for start in HEADS.get(spec.head.kind, ())}

    fitted, report = fit_weights(Weights(file, config), network, spec)

    report.require(())
    assert {name: value.shape for name, value in fitted.items()} == {
        name: value.shape for name, value in network.state_dict().items()
    }
    assert len(report.matched) + len(report.ignored) == len(file)


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
