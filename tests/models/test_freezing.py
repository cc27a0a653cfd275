import pytest
import torch
from tiny import ROWS
from torch import nn

from piip.counting.memory import training_memory
from piip.models.network import Network
from piip.spec import OptimSpec
from piip.training.optim import build_optimizer


@pytest.fixture
def network():
    backbone = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    return Network(backbone, nn.Linear(2, 1))


def test_frozen_parts_neither_learn_nor_change_in_training(network):
    network.freeze(["backbone.0", "backbone.1", "backbone.2"])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = build_optimizer(network, OptimSpec(lr=0.1), {})

    network.eval().train()
    features = network.backbone(torch.randn(8, 2))
    network.head(features).sum().backward()
    optimizer.step()

    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}
    assert [part.training for part in network.backbone] == [False] * 3
    assert network.training
    assert network.head.training


def test_a_part_that_is_not_there_is_answered_with_the_nearest(network):
    with pytest.raises(ValueError, match=r"no part 'backbone\.11'\. Nearest: 'backbone\.1'"):
        network.freeze(["backbone.11"])
    with pytest.raises(ValueError, match="leaves nothing to learn"):
        network.freeze(["backbone", "head"])


def test_what_is_frozen_has_no_gradients_and_no_moments():
    row = ROWS["pico"][0]
    plain, frozen = (
        training_memory(row.model, row.train.model_copy(update={"freeze": parts}), 64, 64)
        for parts in ((), ("backbone",))
    )

    assert frozen.weights_gb == plain.weights_gb
    assert frozen.optimizer_gb < plain.optimizer_gb
    assert frozen.optimizer_gb == pytest.approx(2 * frozen.gradients_gb)
