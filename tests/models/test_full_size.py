"""Every published row has the official network's parameters and optimizer groups; on the meta device."""

from functools import cache

import pytest
import torch
from official import full_size, official_name
from torch import nn

from piip.models import build_backbone
from piip.models.naming import left_out, official_shape
from piip.models.piip import PIIP
from piip.spec import ModelSpec, PIIPSpec
from piip.sweeps.found import all_rows
from piip.training.optim import build_optimizer

ROWS = {row.paper.config: row for row in all_rows().values() if row.paper and row.paper.config}
SHAPES, GROUPS = full_size()["shapes"], full_size()["groups"]


@cache
def _built(spec: ModelSpec) -> nn.Module:
    separate = spec.head.num_classes if spec.head.kind == "classifier" else None
    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        # on meta there are no values to draw, and drawing none takes three quarters of the time
        patch.setattr("timm.layers.weight_init._trunc_normal_", lambda tensor, *_: tensor)
        patch.setattr("torch.nn.init._no_grad_trunc_normal_", lambda tensor, *_, **__: tensor)
        return build_backbone(spec.backbone, pretrained=False, num_classes=separate)


def built(config: str) -> tuple[nn.Module, PIIPSpec]:
    """The row's backbone, built once for rows that differ in resolutions only."""
    model = ROWS[config].model
    assert isinstance(model.backbone, PIIPSpec)
    changes = {
        f"backbone.branches.{i}.resolution": 224
        for i, branch in enumerate(model.backbone.branches)
        if branch.positions == "pretraining"
    }
    return _built(model.override(changes | {"backbone.label": ""})), model.backbone


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
